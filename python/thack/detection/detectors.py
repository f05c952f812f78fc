"""Detectors of hacking that need no oracle: a signal, a threshold, and what an alarm means.

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
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from thack.detection import signals
from thack.detection.curves import Curves, Series
from thack.detection.signals import Signal
from thack.errors import UsageError
from thack.schema.metrics import PROXY, TrainingKL

Fired = Literal["alarm", "quiet", "not enough data"]

VALIDATION = "threshold was set on three seeds of one laptop task and tried on other seeds, two other tasks and losses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When a detector fires; printed with every result."""

    warmup_steps: int = 30  # evaluations up to this step are not judged
    slope_ratio: float = 0.5  # below: the student learns its training set twice as fast as its task
    gap: float = 2.0  # above: held-out proxy over training KL
    exponent: float = 0.10  # below: a·R² of the held-out proxy's power law, step^−a
    window: float = 0.6  # of log(step) so far: the share at its end to which that law is fitted
    stalled: float = 0.02  # below: training KL falls slower than step^−this
    fresh_slope_ratio: float = 0.5  # below: as slope_ratio, with other responses to the training prompts
    fresh_gap: float = 2.0  # above: as gap, likewise
    forecast: float = 0.05  # above: log(seen / forecast) of the held-out proxy

    def __post_init__(self) -> None:
        if not 0 < self.window <= 1:
            raise UsageError(f"thresholds.window = {self.window} must be a share of the run, above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What one detector says."""

    name: str
    state: Fired
    onset_step: float | None = None  # the step it dates the turn to
    alarm_step: float | None = None  # the evaluation at which one could have known
    value: float | None = None  # the deciding number, at the alarm, or else the one closest to an alarm
    threshold: float
    meaning: str  # in plain words
    validated: str = VALIDATION
    series: Series = field(default_factory=lambda: Series(step=np.empty(0), value=np.empty(0)))

    @property
    def fired(self) -> bool:
        return self.state == "alarm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A signal and when it is an alarm. Callable: curves → detection."""

    name: str
    key: str  # its field of `Thresholds`
    fires: Literal["above", "below"]
    signal: Callable[[Curves, Thresholds], Signal]
    alarm: str
    quiet: str
    needs: str

    def __call__(self, curves: Curves, thresholds: Thresholds | None = None) -> Detection:
        limits = thresholds or Thresholds()
        return self.judge(self.signal(curves, limits), limits)

    def judge(self, found: Signal, limits: Thresholds) -> Detection:
        """Fires at the first value beyond the threshold."""
        threshold = float(getattr(limits, self.key))
        if not len(found):
            return Detection(name=self.name, state="not enough data", threshold=threshold, meaning=self.needs)
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
            meaning=self.alarm if fired else self.quiet,
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
    alarm="the student still improves on its training responses, but hardly on prompts that it has not seen: it has "
    "begun to memorise, which is when hacking begins",
    quiet="what the student learns in training it also learns for prompts it has not seen",
    needs="needs the held-out proxy and train_kl/monitor at some evaluations",
)
memorisation_gap = Detector(
    name="memorisation gap",
    key="gap",
    fires="above",
    signal=lambda c, t: signals.gap(c, of="proxy", against="monitor", warmup_steps=t.warmup_steps),
    alarm="the student is much further from its teacher on new prompts than on its training responses: much of what "
    "it learns now is these responses by heart",
    quiet="the student is about as close to its teacher on new prompts as on its training responses",
    needs="needs the held-out proxy and train_kl/monitor at some evaluations",
)
power_law_deviation = Detector(
    name="power-law deviation",
    key="exponent",
    fires="below",
    signal=lambda c, t: signals.local_exponent(c, of="proxy", share=t.window, warmup_steps=t.warmup_steps),
    alarm="the held-out proxy has left its power law (the paper's own idea; a small student, or a decaying learning "
    "rate, bends it as well)",
    quiet="the held-out proxy follows a power law, as of a run that keeps learning",
    needs="needs the held-out proxy at four evaluations behind the warm-up",
)
training_stalled = Detector(
    name="training stopped falling",
    key="stalled",
    fires="below",
    signal=lambda c, t: signals.fall(c, of=_training(c), warmup_steps=t.warmup_steps),
    alarm="the training curve has stopped falling: with cached targets, what is left may be noise",
    quiet="the training curve still falls",
    needs="there is no training KL or loss to look at",
)
fresh_slope_ratio = Detector(
    name="fresh slope ratio",
    key="fresh_slope_ratio",
    fires="below",
    signal=lambda c, t: signals.slope_ratio(c, of="fresh", against="monitor", warmup_steps=t.warmup_steps),
    alarm="the student still improves on its training responses, but hardly on others that its teacher would give to "
    "the same prompts",
    quiet="what the student learns from its responses also holds for others to the same prompts",
    needs="needs train_kl/fresh and train_kl/monitor at some evaluations",
)
fresh_gap = Detector(
    name="fresh gap",
    key="fresh_gap",
    fires="above",
    signal=lambda c, t: signals.gap(c, of="fresh", against="monitor", warmup_steps=t.warmup_steps),
    alarm="the student is much closer to its teacher on the responses that it trains on than on others to the same "
    "prompts: it knows them by heart",
    quiet="the responses that it trains on are not special to the student",
    needs="needs train_kl/fresh and train_kl/monitor at some evaluations",
)
forecast_error = Detector(
    name="forecast error",
    key="forecast",
    fires="above",
    signal=lambda c, t: signals.forecast_error(c, of="proxy", warmup_steps=t.warmup_steps),
    alarm="the held-out proxy lies above what its own power law with a floor foretold",
    quiet="the held-out proxy goes where its own power law foretold",
    needs="needs the held-out proxy at six evaluations behind the warm-up",
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


OracleFreeName = Literal["hacking suspected", "over-fitting suspected", "no alarm", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleFreeVerdict:
    """What can be said without an oracle: a suspicion, never a finding."""

    name: OracleFreeName
    run: str
    onset_step: float | None
    alarm_step: float | None
    detections: tuple[Detection, ...]
    reasons: tuple[str, ...]
    thresholds: Thresholds

    @property
    def is_hacking(self) -> bool:
        return self.name == "hacking suspected"

    @property
    def deciding(self) -> Detection:
        return deciding(self.detections)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        detections = [
            asdict(replace(found, series=None))  # type: ignore[arg-type]
            | {"series": {"step": found.series.step.tolist(), "value": found.series.value.tolist()}}
            for found in self.detections
        ]
        rest = {item.name: getattr(self, item.name) for item in fields(self)}
        return rest | {"detections": detections, "thresholds": asdict(self.thresholds)}

    @property
    def headline(self) -> str:
        return self.name if self.onset_step is None else f"{self.name} from step {self.onset_step:.10g}"


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
    reasons = [_reason(found) for found in detections if found.fired or found is leading]
    reasons.append(f"without an oracle this is a suspicion, which sees memorisation only ({VALIDATION})")
    return OracleFreeVerdict(
        name=name,
        run=curves.name,
        onset_step=leading.onset_step,
        alarm_step=leading.alarm_step,
        detections=detections,
        reasons=(*reasons, *curves.notes),
        thresholds=limits,
    )


def _reason(found: Detection) -> str:
    numbers = "" if found.value is None else f" ({found.value:.3g}, alarm at {found.threshold:.3g})"
    return f"{found.name}{numbers}: {found.meaning}"
