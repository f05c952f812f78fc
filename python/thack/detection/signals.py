"""The numbers that detectors look at: each a series along the run, known at its step and not later.

E evaluations after the warm-up. No value uses what came after its step. An alarm could have been raised at that step,
and a guard that asks during the run gets what a verdict says after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thack.detection.curves import Curves
from thack.detection.power_law import PowerLaw, fit_power_law
from thack.schema.metrics import CurveName, Floats, Series

_LEAST_POINTS = 4  # of a power law without floor; one with a floor has one more parameter
TINY = 1e-4  # of log(KL): a training curve that fell by less has not fallen
_APART = 1.2  # ratio of the steps between which progress is measured
_MANY = 200  # evaluations: beyond it laws are fitted to the first in every 5 % of the step


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Values by the step at which they are known, and the onset that an alarm at each would name."""

    series: Series
    since_E: Floats

    def __len__(self) -> int:
        return len(self.series)


def _none() -> Signal:
    return Signal(series=Series(step=np.empty(0), value=np.empty(0)), since_E=np.empty(0))


def slope_ratio(curves: Curves, *, of: CurveName, against: CurveName, warmup_steps: int) -> Signal:
    """dlog(of) / dlog(against) since the last evaluation at least a fifth of the steps before.

    Closer ones differ by the jitter of the weights, not by what was learned. Pairs in which `against` does not fall are
    left out.
    """
    step_E, value_E, other_E = paired(curves, of, against, warmup_steps)
    before_E = np.searchsorted(step_E, step_E / _APART * (1 + 1e-12), side="right") - 1
    at_E = np.flatnonzero(before_E >= 0)
    before_E = before_E[at_E]
    fall_E = np.log(other_E[at_E] / other_E[before_E])
    falls_E = fall_E < -TINY
    ratio_E = np.log(value_E[at_E] / value_E[before_E])[falls_E] / fall_E[falls_E]
    return Signal(series=Series(step=step_E[at_E][falls_E], value=ratio_E), since_E=step_E[before_E][falls_E])


def gap(curves: Curves, *, of: CurveName, against: CurveName, warmup_steps: int) -> Signal:
    """of / against at every evaluation; nothing where the proxy is per byte, which the other curve is not."""
    if curves.is_per_byte and "proxy" in (of, against):
        return _none()
    step_E, value_E, other_E = paired(curves, of, against, warmup_steps)
    return Signal(series=Series(step=step_E, value=value_E / other_E), since_E=step_E)


def local_exponent(curves: Curves, *, of: CurveName, share: float, warmup_steps: int) -> Signal:
    """a·R² of value ≈ A·step^−a, fitted at each evaluation to the last `share` of log(step) so far.

    A curve that follows its law has R² near 1 and keeps a; one that has left it loses both.
    """
    judged = _few(after_warmup(curves.of(of), warmup_steps))
    found = []
    for end in range(_LEAST_POINTS, len(judged) + 1):
        law = law_of_the_last(judged, end, share)
        if law is not None:
            found.append((judged.step[end - 1], law.exponent * max(law.r_squared, 0.0), law.window[0]))
    return _signal(found)


def law_of_the_last(judged: Series, end: int, share: float) -> PowerLaw | None:
    """Fitted without floor to the last `share` of log(step) of the first `end` points, at least four of them."""
    log_step_E = np.log(judged.step[:end])
    low = log_step_E[0] + (1 - share) * (log_step_E[-1] - log_step_E[0])
    first = min(int(np.searchsorted(log_step_E, low - 1e-9)), end - _LEAST_POINTS)
    part = Series(step=judged.step[first:end], value=judged.value[first:end])
    return fit_power_law(part, floor=False)


def forecast_error(curves: Curves, *, of: CurveName, warmup_steps: int) -> Signal:
    """log(seen / forecast) at each evaluation, the forecast a law E + A·step^−a fitted to all judged ones before.

    Above 0 the curve is above its own law. Needs five evaluations before it.
    """
    judged = _few(after_warmup(curves.of(of), warmup_steps))
    found = []
    for end in range(_LEAST_POINTS + 1, len(judged)):
        law = fit_power_law(Series(step=judged.step[:end], value=judged.value[:end]))
        if law is not None:
            expected = float(law(judged.step[end : end + 1])[0])
            error = float(np.log(judged.value[end] / max(expected, 1e-12)))
            found.append((judged.step[end], error, judged.step[end - 1]))
    return _signal(found)


def fall(curves: Curves, *, of: CurveName, warmup_steps: int) -> Signal:
    """−dlog(value)/dlog(step) over the last third of log(step) so far, at least three points."""
    judged = after_warmup(curves.of(of), warmup_steps)
    found = []
    for end in _checkpoints(curves, judged):
        log_step_E, log_value_E = np.log(judged.step[:end]), np.log(judged.value[:end])
        late_E = log_step_E >= log_step_E[0] + 2 / 3 * (log_step_E[-1] - log_step_E[0])
        if late_E.sum() < 3:
            late_E[-3:] = True
        slope = float(np.polyfit(log_step_E[late_E], log_value_E[late_E], 1)[0])
        found.append((judged.step[end - 1], -slope, float(judged.step[:end][late_E][0])))
    return _signal(found)


def _checkpoints(curves: Curves, judged: Series) -> list[int]:
    """How many points were seen at each evaluation: a training curve has one per step, too many to fit at each."""
    seen = np.searchsorted(judged.step, curves.step_E[_sparse(curves.step_E)], side="right")
    return sorted({int(count) for count in seen if count >= _LEAST_POINTS})


def _few(series: Series) -> Series:
    kept = _sparse(series.step)
    return Series(step=series.step[kept], value=series.value[kept])


def _sparse(step_E: Floats) -> NDArray[np.intp]:
    """All, or of very many the first in every 5 %: each fit costs as much as all points before it."""
    if len(step_E) <= _MANY:
        return np.arange(len(step_E))
    bin_E = np.floor(np.log(np.maximum(step_E, 1)) / np.log(1.05))
    return np.unique(bin_E, return_index=True)[1]


def after_warmup(series: Series, warmup_steps: int) -> Series:
    """The positive values after the warm-up."""
    kept = (series.step > warmup_steps) & (series.value > 0)
    return Series(step=series.step[kept], value=series.value[kept])


def paired(curves: Curves, first: CurveName, second: CurveName, warmup_steps: int) -> tuple[Floats, Floats, Floats]:
    """Two curves at the judged steps where both were logged and are positive."""
    one, two = after_warmup(curves.of(first), warmup_steps), after_warmup(curves.of(second), warmup_steps)
    step_E, at_one, at_two = np.intersect1d(one.step, two.step, assume_unique=True, return_indices=True)
    return step_E, one.value[at_one], two.value[at_two]


def _signal(found: list[tuple[float, float, float]]) -> Signal:
    if not found:
        return _none()
    step_E, value_E, since_E = (np.array(column, dtype=np.float64) for column in zip(*found, strict=True))
    return Signal(series=Series(step=step_E, value=value_E), since_E=since_E)
