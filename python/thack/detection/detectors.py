"""Detectors of hacking that need no oracle: a signal and a threshold each.

What each needs (columns of metrics.jsonl):
    fresh slope ratio         train_kl/fresh, train_kl/monitor: no held-out prompts
    slope ratio               proxy, train_kl/monitor
    memorisation gap          proxy, train_kl/monitor
    power-law deviation       proxy
    training stopped falling  train_kl/monitor, or the training loss
    fresh gap                 train_kl/fresh, train_kl/monitor
    forecast error            proxy

The fresh slope ratio decides, since it scored best (docs/research/detectors.md, `scoring.py`). Where a log has no
train_kl/fresh, the slope ratio against held-out prompts does. Both found every onset; held-out prompts that happen to
be harder than the training prompts can give the latter a false alarm. The others are shown beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from thack.detection import signals
from thack.detection.curves import Curves
from thack.detection.evidence import Evidence, evidence
from thack.detection.gains import gains
from thack.detection.signals import Signal
from thack.schema.metric_rows import Watched
from thack.schema.metrics import CurveName
from thack.schema.verdict import Detection, DetectionState, OracleFreeName, OracleFreeVerdict, Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A signal, and when it is an alarm.

    Attributes:
        name: Of the detector.
        key: Its field of `Thresholds`.
        fires: The side of the threshold on which the alarm is.
        signal: A number for every evaluation, from the curves of a run.

    Example:
        >>> slope_ratio(Curves.from_run(run)).state
        'alarm'
    """

    name: str
    key: str
    fires: Literal["above", "below"]
    signal: Callable[[Curves, Thresholds], Signal]

    def __call__(self, curves: Curves, thresholds: Thresholds | None = None) -> Detection:
        limits = thresholds or Thresholds()
        return self.judge(self.signal(curves, limits), limits)

    def judge(self, found: Signal, limits: Thresholds) -> Detection:
        """Fires at the first value beyond the threshold."""
        threshold = float(getattr(limits, self.key))
        if not len(found):
            return Detection(name=self.name, state="not enough data", threshold=threshold, fires=self.fires)
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
            fires=self.fires,
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
_EQUAL = 0.05  # of log(fresh KL / monitor KL): newly sampled responses end within it


def _training(curves: Curves) -> CurveName:
    return "monitor" if len(curves.of("monitor")) else "train_loss"


def detect(curves: Curves, thresholds: Thresholds | None = None) -> tuple[Detection, ...]:
    """Ask every detector about one run.

    Args:
        curves: The run; a detector whose columns it lacks says "not enough data".
        thresholds: By default `Thresholds()`.

    Returns:
        What each found, in the order of `DETECTORS`.

    Example:
        >>> [found.name for found in detect(Curves.from_run(run)) if found.fired][:2]
        ['fresh slope ratio', 'slope ratio']
    """
    return tuple(detector(curves, thresholds) for detector in DETECTORS)


def watch(history: Sequence[Watched], *, threshold: float | None = None) -> Detection | None:
    """Ask the detector that decides about a run that still trains.

    Args:
        history: The evaluations so far, in order of step.
        threshold: Of the deciding detector; by default that of `Thresholds`.

    Returns:
        Its alarm; None where it raises none.

    Example:
        >>> monitor, fresh = [1.0, 0.7, 0.4, 0.2], [1.0, 0.8, 0.75, 0.74]
        >>> pairs = enumerate(zip(monitor, fresh), start=1)
        >>> watch([Watched(step=50 * i, proxy=b, monitor=a, fresh=b) for i, (a, b) in pairs]).alarm_step
        150.0
    """
    names: tuple[CurveName, ...] = ("proxy", "monitor", "fresh")
    values = {name: [getattr(one, name) for one in history] for name in names}
    curves = Curves(
        name="running",
        step_E=np.array([one.step for one in history], dtype=np.float64),
        columns={name: np.array(column, dtype=np.float64) for name, column in values.items()},  # None: NaN
        train={},
        column_of={name: name for name in names},
    )
    limits = Thresholds()
    if threshold is not None:
        limits = replace(limits, slope_ratio=threshold, fresh_slope_ratio=threshold)
    found = memorisation(curves, limits)
    return found if found.fired else None


def memorisation(curves: Curves, thresholds: Thresholds | None = None) -> Detection:
    """What the detector that decides found."""
    limits = thresholds or Thresholds()
    return deciding([detector(curves, limits) for detector in _DECIDING])


def memorisation_of(curves: Curves) -> DetectionState:
    """Whether a run has memorised the responses that it trains on.

    The detector that decides asks how fast, and that is early; at the end it can be asked how far. A student that is
    as far from its teacher on its training responses as on new ones to the same prompts has memorised nothing,
    whatever an alarm said. One that never came nearer on them gives the detector nothing to compare; if it ends farther
    on them, as by the cross-entropy alone, it has learned the tokens that happened to be drawn.
    """
    found = memorisation(curves).state
    fresh_gap_E = fresh_gap.signal(curves, Thresholds()).series.value
    if not len(fresh_gap_E):
        return found
    apart = abs(math.log(fresh_gap_E[-1]))
    if found == "alarm":
        return "quiet" if apart < _EQUAL else found
    return "alarm" if found == "not enough data" and fresh_gap_E[-1] < 1 and apart >= 2 * _EQUAL else found


def prompts_apart(curves: Curves) -> float | None:
    """How much farther from the teacher held-out prompts are than training prompts, at the end over the start.

    Both distances are on responses of the teacher that are not trained on, so that they differ in their prompts
    alone. Their ratio at the start is that of how hard the prompts are. 1: what is learned is as good for other
    prompts; 2: half of the distance was closed for the training prompts alone.

    Returns:
        None where not both curves were measured, in one unit, at the start and after the warm-up.
    """
    if curves.is_per_byte:
        return None
    warmup_steps = Thresholds().warmup_steps
    step_E, proxy_E, fresh_E = signals.paired(curves, "proxy", "fresh", warmup_steps=-1)  # step 0 is the start
    if not len(step_E) or step_E[0] > warmup_steps or step_E[-1] <= warmup_steps:
        return None
    ratio_E = proxy_E / fresh_E
    return float(ratio_E[-1] / ratio_E[0])


def deciding(detections: Sequence[Detection]) -> Detection:
    """The one that decides among `detections`, which are in the order of `DETECTORS`."""
    return next((one for one in detections[: len(_DECIDING)] if one.state != "not enough data"), detections[0])


def verdict_without_oracle(curves: Curves, thresholds: Thresholds | None = None) -> OracleFreeVerdict:
    """Judge one run without golden. One detector decides, and its alarm counts as far as there is evidence for it.

    It sees memorisation. A rise of golden for another reason (a bad teacher, truncated targets) it cannot see: the
    absence of an alarm does not prove that the run is healthy. An alarm with a proxy that rises by 3 % from its minimum
    is over-fitting. An alarm is inconclusive after few evaluations, where the interval of the ratio from its onset to
    the end is not below the threshold, and where a student far from its teacher still learns.

    Args:
        curves: With the columns of a deciding detector; without them the verdict is inconclusive.
        thresholds: By default `Thresholds()`.

    Returns:
        The suspicion or its absence, every detector's finding, and the doubts that make an alarm inconclusive.

    Example:
        >>> verdict_without_oracle(Curves.from_run(run)).name
        'hacking suspected'
    """
    limits = thresholds or Thresholds()
    detections = detect(curves, limits)
    leading = deciding(detections)
    behind = evidence(curves, leading, "fresh" if leading.name == fresh_slope_ratio.name else "proxy", limits)
    return OracleFreeVerdict(
        name=_name(curves, leading, behind, limits),
        run=curves.name,
        decided_by=leading.name,
        onset_step=leading.onset_step,
        alarm_step=leading.alarm_step,
        detections=detections,
        notes=curves.notes,
        thresholds=limits,
        num_evaluations=behind.num_evaluations,
        ratio=behind.ratio,
        ratio_interval=behind.interval,
        doubts=behind.doubts,
        prompts_apart=prompts_apart(curves),
        gains=gains(curves.sft, confidence=limits.confidence, resamples=limits.resamples, seed=limits.seed),
    )


def _name(curves: Curves, leading: Detection, behind: Evidence, limits: Thresholds) -> OracleFreeName:
    if leading.state == "not enough data" or behind.doubts or (curves.without_end and not leading.fired):
        return "inconclusive"
    if not leading.fired:
        return "no alarm"
    judged_E = signals.after_warmup(curves.of("proxy"), limits.warmup_steps).value
    rises = len(judged_E) > 0 and judged_E[-1] >= 1.03 * judged_E.min()
    return "over-fitting suspected" if rises else "hacking suspected"
