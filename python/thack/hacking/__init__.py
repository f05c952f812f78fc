"""Is the student learning its teacher's mistakes? Verdicts and detectors; numpy only."""

from thack.hacking.curves import Curves, parse_mapping
from thack.hacking.verdict import Margins, Verdict, verdict

__all__ = ["Curves", "Margins", "Verdict", "parse_mapping", "verdict"]
