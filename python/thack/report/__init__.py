"""One page about runs: the verdict in words, the curves, the settings and what it cost."""

from thack.report.write import write_report

__all__ = ["write_report"]
