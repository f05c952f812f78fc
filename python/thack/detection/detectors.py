"""Detectors of hacking that need no oracle: a signal and a threshold each.

What each needs (columns of metrics.jsonl):
    fresh slope ratio         train_kl/fresh, train_kl/monitor: no held-out prompts
    slope ratio               proxy, train_kl/monitor
    memorisation gap          proxy, train_kl/monitor
    power-law deviation       proxy
    training stopped falling  train_kl/monitor, or the training loss
    fresh gap                 train_kl/fresh, train_kl/monitor
    forecast error            proxy

The fresh slope ratio decides, since it won (docs/findings.md, `scoring.py`); where a log has no train_kl/fresh, the
slope ratio against held-out prompts does. Both find every turn; a set of held-out prompts that happens to be harder
can give the latter a false alarm. The others are shown beside them. Where the thresholds come from is said with
every detection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from thack.detection import signals
from thack.detection.curves import Curves
from thack.detection.signals import Signal
from thack.schema.metrics import PROXY, TrainingKL
from thack.schema.verdict import Detection, OracleFreeName, OracleFreeVerdict, Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A signal and when it is an alarm. Callable: curves → detection."""

    name: str
    key: str  # its field of `Thresholds`
    fires: Literal["above", "below"]
    signal: Callable[[Curves, Thresholds], Signal]

    def __call__(self, curves: Curves, thresholds: Thresholds | None = None) -> Detection:
        limits = thresholds or Thresholds()
        return self.judge(self.signal(curves, limits), limits)

    def judge(self, found: Signal, limits: Thresholds) -> Detection:
        """Fires at the first value beyond the threshold."""
        threshold = float(getattr(limits, self.key))
        if not len(found):
            return Detection(name=self.name, state="not enough data", threshold=threshold)
        value_E = found.series.value
        beyond = np.flatnonzero(self.towards(value_E) > self.towards(np.array([threshold]))[0])
        at = int(beyond[0]) if len(beyond) else int(np.argmax(self.towards(value_E)))
        fired = len(beyond) > 0
        return Detection(
            name=self.name,
            state="alarm" if fired else "quiet",
            onset_step=float(found.since_E[at]) if fired else None,
            alarm_step=float(found.series.step[at]) if fired else None,
            value=float(value_E[at]),
            threshold=threshold,
            series=found.series,
        )

    def towards(self, value_E: np.ndarray) -> np.ndarray:
        """The signal with its sign such that more of it is more suspicious."""
        return value_E if self.fires == "above" else -value_E


slope_ratio = Detector(
    name="slope ratio",
    key="slope_ratio",
    fires="below",
    signal=lambda c, t: signals.slope_ratio(c, of="proxy", against="monitor", warmup_steps=t.warmup_steps),
)
memorisation_gap = Detector(
    name="memorisation gap",
    key="gap",
    fires="above",
    signal=lambda c, t: signals.gap(c, of="proxy", against="monitor", warmup_steps=t.warmup_steps),
)
power_law_deviation = Detector(
    name="power-law deviation",
    key="exponent",
    fires="below",
    signal=lambda c, t: signals.local_exponent(c, of="proxy", share=t.window, warmup_steps=t.warmup_steps),
)
training_stalled = Detector(
    name="training stopped falling",
    key="stalled",
    fires="below",
    signal=lambda c, t: signals.fall(c, of=_training(c), warmup_steps=t.warmup_steps),
)
fresh_slope_ratio = Detector(
    name="fresh slope ratio",
    key="fresh_slope_ratio",
    fires="below",
    signal=lambda c, t: signals.slope_ratio(c, of="fresh", against="monitor", warmup_steps=t.warmup_steps),
)
fresh_gap = Detector(
    name="fresh gap",
    key="fresh_gap",
    fires="above",
    signal=lambda c, t: signals.gap(c, of="fresh", against="monitor", warmup_steps=t.warmup_steps),
)
forecast_error = Detector(
    name="forecast error",
    key="forecast",
    fires="above",
    signal=lambda c, t: signals.forecast_error(c, of="proxy", warmup_steps=t.warmup_steps),
)

#: Those that decide first: of them the first that has its columns.
DETECTORS: tuple[Detector, ...] = (
    fresh_slope_ratio,
    slope_ratio,
    memorisation_gap,
    power_law_deviation,
    training_stalled,
    fresh_gap,
    forecast_error,
)
_DECIDING = DETECTORS[:2]


def _training(curves: Curves) -> str:
    return "monitor" if len(curves.of("monitor")) else "train_loss"


def detect(curves: Curves, thresholds: Thresholds | None = None) -> tuple[Detection, ...]:
    """All detectors, in the order of `DETECTORS`."""
    return tuple(detector(curves, thresholds) for detector in DETECTORS)


def watch(history: Sequence[Mapping[str, Any]], *, threshold: float | None = None) -> Detection | None:
    """The deciding detector's alarm on the evaluations so far, for a run that is still going on; None without one.

    Rows hold `step`, train_kl/monitor, and train_kl/fresh or the proxy's column.
    """
    step_E = np.array([row["step"] for row in history], dtype=np.float64)
    words: dict[str, str] = {"proxy": str(PROXY), "monitor": TrainingKL.MONITOR, "fresh": TrainingKL.FRESH}
    columns = {
        column: np.array([row.get(column, np.nan) for row in history], dtype=np.float64) for column in words.values()
    }
    curves = Curves(name="running", step_E=step_E, columns=columns, train={}, words=words)
    changed: dict[str, Any] = {} if threshold is None else {one.key: threshold for one in _DECIDING}
    limits = replace(Thresholds(), **changed)
    found = deciding([detector(curves, limits) for detector in _DECIDING])
    return found if found.fired else None


def deciding(detections: Sequence[Detection]) -> Detection:
    """The one that decides among `detections`, which are in the order of `DETECTORS`."""
    return next((one for one in detections[: len(_DECIDING)] if one.state != "not enough data"), detections[0])


def verdict_without_oracle(curves: Curves, thresholds: Thresholds | None = None) -> OracleFreeVerdict:
    """One detector decides; an alarm with a proxy that rises by 3 % from its minimum is over-fitting.

    It sees memorisation. A rise that is none (a bad teacher, truncated targets) it cannot see, and no alarm is
    no proof of health.
    """
    limits = thresholds or Thresholds()
    detections = detect(curves, limits)
    leading = deciding(detections)
    judged_E = signals.behind(curves.of("proxy"), limits.warmup_steps).value
    name: OracleFreeName = "no alarm"
    if leading.state == "not enough data" or (curves.broken and not leading.fired):
        name = "inconclusive"
    elif leading.fired:
        rises = len(judged_E) > 0 and judged_E[-1] >= 1.03 * judged_E.min()
        name = "over-fitting suspected" if rises else "hacking suspected"
    return OracleFreeVerdict(
        name=name,
        run=curves.name,
        decided_by=leading.name,
        onset_step=leading.onset_step,
        alarm_step=leading.alarm_step,
        detections=detections,
        notes=curves.notes,
        thresholds=limits,
    )
