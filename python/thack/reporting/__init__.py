"""One page about runs: the verdict in words, the curves, the settings and what it cost."""

from thack.reporting.grid import is_grid
from thack.reporting.write import write_grid_report, write_report

__all__ = ["is_grid", "write_grid_report", "write_report"]
