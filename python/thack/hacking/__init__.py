"""Is the student learning its teacher's mistakes? Verdicts and detectors; numpy only."""

from thack.hacking.curves import Curves, Series, parse_mapping
from thack.hacking.detectors import (
    Detection,
    OracleFreeVerdict,
    Thresholds,
    detect,
    memorisation_gap,
    power_law_deviation,
    slope_ratio,
    training_stalled,
    verdict_without_oracle,
)
from thack.hacking.power_law import PowerLaw, fit_power_law
from thack.hacking.verdict import Extent, Margins, Verdict, verdict
from thack.hacking.words import MEANING

__all__ = [
    "MEANING",
    "Curves",
    "Detection",
    "Extent",
    "Margins",
    "OracleFreeVerdict",
    "PowerLaw",
    "Series",
    "Thresholds",
    "Verdict",
    "detect",
    "fit_power_law",
    "memorisation_gap",
    "parse_mapping",
    "power_law_deviation",
    "slope_ratio",
    "training_stalled",
    "verdict",
    "verdict_without_oracle",
]
