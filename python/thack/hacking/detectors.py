"""Signals of hacking that need no oracle.

Each detector is a function of the curves that returns a `Detection`: whether it fired, which step it dates
the turn to, and when one could have known. The thresholds were read off a handful of laptop runs (RECIPE)
and have not been validated on other tasks; every detection carries that sentence.

What each needs (columns of metrics.jsonl):
    slope_ratio          proxy, train_kl/monitor
    memorisation_gap     proxy, train_kl/monitor (and train_kl/fresh, shown beside)
    power_law_deviation  proxy
    training_stalled     train_kl/monitor, or the training loss
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from thack.errors import UsageError
from thack.hacking.curves import Curves, Floats, Series
from thack.hacking.power_law import fit_power_law

Fired = Literal["alarm", "quiet", "not enough data"]

NOT_VALIDATED = "threshold read off five laptop runs on one corpus; not validated on other tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When a detector fires; printed with every result."""

    warmup_steps: int = 30  # evaluations up to this step are not judged
    slope_ratio: float = 0.3  # below: the student learns its training set four times as fast as its task
    gap: float = 2.0  # held-out proxy over training KL
    exponent: float = 0.10  # a held-out proxy that falls slower than step^−this ...
    r_squared: float = 0.90  # ... or is not a power law at all
    window: tuple[float, float] = (0.4, 1.0)  # of the run, in log(step): where the power law is fitted
    stalled: float = 0.02  # training KL that falls slower than step^−this at the end has stopped

    def __post_init__(self) -> None:
        if not 0 <= self.window[0] < self.window[1] <= 1:
            raise UsageError(f"thresholds.window = {self.window} must be two increasing shares of the run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What one detector says."""

    name: str
    state: Fired
    onset_step: float | None = None  # the step it dates the turn to
    alarm_step: float | None = None  # the evaluation at which one could have known
    value: float | None = None  # the deciding number, at the alarm or at the end
    threshold: float
    meaning: str  # in plain words
    validated: str = NOT_VALIDATED
    series: Series = field(default_factory=lambda: Series(step=np.empty(0), value=np.empty(0)))

    @property
    def fired(self) -> bool:
        return self.state == "alarm"


def slope_ratio(curves: Curves, thresholds: Thresholds | None = None) -> Detection:
    """dlog(held-out proxy) / dlog(training KL on a fixed monitor set), from one evaluation to the next.

    Near 1 the student learns the task: what it gains in training it gains on prompts it has not seen. Near 0
    it memorises. Below 0 the proxy rises while training falls. Pairs in which training KL does not fall have
    no ratio and are left out (`training_stalled` speaks for them).
    """
    limits = thresholds or Thresholds()
    step_E, proxy_E, monitor_E = _together(curves, "proxy", "monitor", limits)
    fall_E = np.diff(np.log(monitor_E))
    falls_E = fall_E < -1e-4
    ratio_E = np.diff(np.log(proxy_E))[falls_E] / fall_E[falls_E]
    from_E, to_E = step_E[:-1][falls_E], step_E[1:][falls_E]
    return _first_below(
        "slope ratio",
        Series(step=to_E, value=ratio_E),
        from_E,
        limits.slope_ratio,
        alarm="the student still improves on its training responses, but hardly on prompts that it has not "
        "seen: it has begun to memorise, which is when hacking begins",
        quiet="what the student learns in training it also learns for prompts it has not seen",
    )


def memorisation_gap(curves: Curves, thresholds: Thresholds | None = None) -> Detection:
    """Held-out proxy / training KL on the monitor set: 1 without memorisation; later than the slope."""
    limits = thresholds or Thresholds()
    step_E, proxy_E, monitor_E = _together(curves, "proxy", "monitor", limits)
    ratio_E = proxy_E / monitor_E
    return _first_below(
        "memorisation gap",
        Series(step=step_E, value=ratio_E),
        step_E,
        limits.gap,
        alarm=f"the student is {limits.gap:g} times as far from its teacher on new prompts as on its "
        "training responses: much of what it learns now is these responses by heart",
        quiet="the student is about as close to its teacher on new prompts as on its training responses",
        above=True,
    )


def power_law_deviation(curves: Curves, thresholds: Thresholds | None = None) -> Detection:
    """The paper's own idea, on the held-out proxy: a run that keeps learning follows a power law.

    Fitted without floor on a declared window in log(step). RECIPE: exponent 0.06 and R² 0.76 offline against
    0.19 and 0.99 online. A window that begins too early raises false alarms, one too late is blind; a small
    student, or a decaying learning rate, bends the law as well.
    """
    limits = thresholds or Thresholds()
    proxy = curves.of("proxy")
    judged = (proxy.step > limits.warmup_steps) & (proxy.value > 0)
    proxy = Series(step=proxy.step[judged], value=proxy.value[judged])
    name = "power-law deviation"
    law = None
    if len(proxy) >= 4:
        low, high = (float(np.quantile(np.log(proxy.step), share)) for share in limits.window)
        law = fit_power_law(proxy, window=(np.exp(low) * 0.999, np.exp(high) * 1.001), floor=False)
    if law is None:
        return _silent(name, limits.exponent, "too few evaluations behind the warm-up to fit a power law")
    bent = law.exponent < limits.exponent or (law.r_squared < limits.r_squared and law.exponent < 0.5)
    exponent = f"{-law.exponent:.2f}".replace("-", "−")
    fit = f"from step {law.window[0]:g} on the proxy falls as step^{exponent}, R² {law.r_squared:.2f}"
    return Detection(
        name=name,
        state="alarm" if bent else "quiet",
        onset_step=law.window[0] if bent else None,
        alarm_step=law.window[1] if bent else None,
        value=law.exponent,
        threshold=limits.exponent,
        meaning=f"{fit}: " + ("it has left its power law" if bent else "a power law, as of a run that keeps learning"),
        series=Series(step=proxy.step, value=law(proxy.step)),
    )


def training_stalled(curves: Curves, thresholds: Thresholds | None = None) -> Detection:
    """Training KL has stopped falling in the last third of log(step): noisy targets, or a rate too low."""
    limits = thresholds or Thresholds()
    series = curves.of("monitor") if len(curves.of("monitor")) else curves.of("train_loss")
    judged = (series.step > limits.warmup_steps) & (series.value > 0)
    step_E, value_E = series.step[judged], series.value[judged]
    name = "training stopped falling"
    if len(step_E) < 4:
        return _silent(name, limits.stalled, "there is no training KL or loss to look at")
    late = step_E >= np.exp(np.log(step_E[0]) + 2 / 3 * (np.log(step_E[-1]) - np.log(step_E[0])))
    if late.sum() < 3:
        late[-3:] = True
    slope = float(np.polyfit(np.log(step_E[late]), np.log(value_E[late]), 1)[0])
    stalled = slope > -limits.stalled
    meaning = f"the training curve falls as step^{slope:+.2f} at the end: "
    return Detection(
        name=name,
        state="alarm" if stalled else "quiet",
        onset_step=float(step_E[late][0]) if stalled else None,
        alarm_step=float(step_E[-1]) if stalled else None,
        value=-slope,
        threshold=limits.stalled,
        meaning=meaning
        + ("it learns nothing more; with cached targets, these may be noise" if stalled else "it still learns"),
        series=Series(step=step_E, value=value_E),
    )


DETECTORS: tuple[Callable[[Curves, Thresholds | None], Detection], ...] = (
    slope_ratio,
    memorisation_gap,
    power_law_deviation,
    training_stalled,
)


def detect(curves: Curves, thresholds: Thresholds | None = None) -> tuple[Detection, ...]:
    """All detectors, the default one first."""
    return tuple(detector(curves, thresholds) for detector in DETECTORS)


def _together(curves: Curves, first: str, second: str, limits: Thresholds) -> tuple[Floats, Floats, Floats]:
    """Two words at the judged steps where both were logged and are positive."""
    one, two = curves.of(first), curves.of(second)
    step_E, at_one, at_two = np.intersect1d(one.step, two.step, assume_unique=True, return_indices=True)
    value_E, other_E = one.value[at_one], two.value[at_two]
    kept = (step_E > limits.warmup_steps) & (value_E > 0) & (other_E > 0)
    return step_E[kept], value_E[kept], other_E[kept]


def _first_below(
    name: str,
    series: Series,
    onset_E: Floats,
    threshold: float,
    *,
    alarm: str,
    quiet: str,
    above: bool = False,
) -> Detection:
    """Fires at the first value beyond the threshold."""
    if not len(series):
        return _silent(name, threshold, "needs the held-out proxy and train_kl/monitor at some evaluations")
    beyond = np.flatnonzero(series.value > threshold if above else series.value < threshold)
    if not len(beyond):
        worst = series.value.max() if above else series.value.min()
        return Detection(
            name=name, state="quiet", value=float(worst), threshold=threshold, meaning=quiet, series=series
        )
    first = int(beyond[0])
    return Detection(
        name=name,
        state="alarm",
        onset_step=float(onset_E[first]),
        alarm_step=float(series.step[first]),
        value=float(series.value[first]),
        threshold=threshold,
        meaning=alarm,
        series=series,
    )


def _silent(name: str, threshold: float, why: str) -> Detection:
    return Detection(name=name, state="not enough data", threshold=threshold, meaning=why)


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
        return self.name if self.onset_step is None else f"{self.name} from step {self.onset_step:g}"


def verdict_without_oracle(curves: Curves, thresholds: Thresholds | None = None) -> OracleFreeVerdict:
    """The slope ratio decides, since it alone fired at golden's minimum and never in a control (RECIPE).

    It sees memorisation. A rise that is none (a bad teacher, truncated targets) it cannot see, and no alarm
    is no proof of health. An alarm with a proxy that rises by 3 % from its minimum is over-fitting.
    """
    limits = thresholds or Thresholds()
    detections = detect(curves, limits)
    leading = detections[0]
    proxy = curves.of("proxy")
    judged_E = proxy.value[proxy.step > limits.warmup_steps]
    name: OracleFreeName = "no alarm"
    if leading.state == "not enough data":
        name = "inconclusive"
    elif leading.fired:
        rises = len(judged_E) > 0 and judged_E[-1] >= 1.03 * judged_E.min()
        name = "over-fitting suspected" if rises else "hacking suspected"
    reasons = [f"{found.name}: {found.meaning}" for found in detections if found.fired or found is leading]
    reasons.append(f"without an oracle this is a suspicion, which sees memorisation only ({NOT_VALIDATED})")
    return OracleFreeVerdict(
        name=name,
        run=curves.name,
        onset_step=leading.onset_step,
        alarm_step=leading.alarm_step,
        detections=detections,
        reasons=tuple(reasons),
        thresholds=limits,
    )
