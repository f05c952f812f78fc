"""Is the student learning its teacher's mistakes? Numbers only; `thack.reporting.prose` has the words.

The modules:

    curves.py         the curves of a run, or of another trainer's log (logs.py, foreign.py, notes.py)
    verdict_table.py  the verdict from golden, proxy and baseline; its table is docs/concepts/verdict.md
    causes.py         why golden rises: memorised responses or prompts, a wrong target, the pull of the teacher
    detectors.py      detectors that need no oracle (signals.py), what stands behind an alarm (evidence.py), and
                      scoring.py: how good they are
    statistics.py     intervals over prompts, quantiles; power_law.py  fits
"""

from thack.detection.curves import Curves
from thack.detection.detectors import (
    DETECTORS,
    Detector,
    detect,
    fresh_gap,
    fresh_slope_ratio,
    memorisation_gap,
    power_law_deviation,
    slope_ratio,
    training_stalled,
    verdict_without_oracle,
    watch,
)
from thack.detection.power_law import PowerLaw, fit_power_law
from thack.detection.scoring import Case, Score, choose_threshold, score_detectors, with_chosen
from thack.detection.verdict_table import verdict
from thack.schema.metrics import Series
from thack.schema.verdict import Detection, Extent, Margins, OracleFreeVerdict, Thresholds, Verdict

__all__ = [
    "DETECTORS",
    "Case",
    "Curves",
    "Detection",
    "Detector",
    "Extent",
    "Margins",
    "OracleFreeVerdict",
    "PowerLaw",
    "Score",
    "Series",
    "Thresholds",
    "Verdict",
    "choose_threshold",
    "detect",
    "fit_power_law",
    "fresh_gap",
    "fresh_slope_ratio",
    "memorisation_gap",
    "power_law_deviation",
    "score_detectors",
    "slope_ratio",
    "training_stalled",
    "verdict",
    "verdict_without_oracle",
    "watch",
    "with_chosen",
]
