"""Power laws with a floor: value ≈ E + A·step^−a on a declared window.

A student that keeps learning is a straight line in log–log. A limit of its capacity, or a decaying learning rate, bends
that line too, without any hacking: this is why the law has a floor E.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thack.detection.statistics import student_quantile
from thack.errors import UsageError
from thack.schema.metrics import Floats, Series
from thack.schema.verdict import Interval

_EXPONENTS = np.linspace(-1.0, 4.0, 501)  # negative: a curve that rises


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """value ≈ floor + scale·step^−exponent, fitted to relative errors on `window` (steps, both included)."""

    floor: float
    scale: float
    exponent: float
    exponent_interval: Interval | None  # profile likelihood; None with too few points
    r_squared: float  # of log(value)
    window: Interval
    num_points: int

    def __call__(self, step: Floats) -> Floats:
        values: Floats = self.floor + self.scale * np.asarray(step, dtype=np.float64) ** -self.exponent
        return values


def fit_power_law(
    series: Series, *, window: Interval | None = None, floor: bool = True, confidence: float = 0.95
) -> PowerLaw | None:
    """Fit a power law by least squares of relative errors.

    For each exponent a of a grid, then of a finer one around the best, floor E ≥ 0 and scale A follow in closed form;
    the best a wins. The interval contains every a whose residual sum is below RSS·(1 + t²/(n − p)), with t Student's
    quantile and p the number of parameters.

    Args:
        series: Values by step; those that are not positive are left out, as is step 0.
        window: First and last step that are used; by default all.
        floor: Whether E is fitted. Without it E = 0: a straight line in log–log.
        confidence: Of the exponent's interval, in [0.5, 1).

    Returns:
        The law; None where fewer points are in the window than the law has parameters, plus one.

    Raises:
        UsageError: `confidence` is out of range.

    Example:
        >>> step = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
        >>> law = fit_power_law(Series(step=step, value=0.5 + step**-1.0))
        >>> round(law.floor, 3), round(law.exponent, 3)
        (0.5, 1.0)
    """
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence = {confidence} must lie in [0.5, 1)")
    low, high = window or (-math.inf, math.inf)
    used = (series.step >= low) & (series.step <= high) & (series.step > 0) & (series.value > 0)
    step_E, value_E = series.step[used], series.value[used]
    num_parameters = 3 if floor else 2
    if len(step_E) <= num_parameters:
        return None
    scaled_E = step_E / step_E[0]  # so that powers neither overflow nor lose digits
    rss_A = _linear(scaled_E ** -_EXPONENTS[:, None], value_E, floor)[2]
    best = int(np.argmin(rss_A))
    # Between the neighbours of the best: with a small exponent the floor is very sensitive to it.
    finer_A = np.linspace(_EXPONENTS[max(best - 1, 0)], _EXPONENTS[min(best + 1, len(_EXPONENTS) - 1)], 101)
    floors_A, scales_A, finer_rss_A = _linear(scaled_E ** -finer_A[:, None], value_E, floor)
    finest = int(np.argmin(finer_rss_A))
    e, a_scaled, rss = float(floors_A[finest]), float(scales_A[finest]), float(finer_rss_A[finest])
    exponent = float(finer_A[finest])
    spare = len(step_E) - num_parameters
    limit = max(rss, 1e-18) * (1 + student_quantile((1 + confidence) / 2, spare) ** 2 / spare)
    inside = np.append(_EXPONENTS[rss_A <= limit], exponent)
    fitted_E = e + a_scaled * scaled_E**-exponent
    return PowerLaw(
        floor=e,
        scale=a_scaled * float(step_E[0]) ** exponent,
        exponent=exponent,
        exponent_interval=(float(inside.min()), float(inside.max())),
        r_squared=_r_squared(np.log(value_E), np.log(np.maximum(fitted_E, 1e-300))),
        window=(float(step_E[0]), float(step_E[-1])),
        num_points=len(step_E),
    )


def _linear(power_AE: Floats, value_E: Floats, floor: bool) -> tuple[Floats, Floats, Floats]:
    """Per row of powers: floor, scale and residual sum of (E + A·power)/value − 1, with E ≥ 0."""
    weight_E = 1 / value_E**2
    floor_A = np.zeros(len(power_AE))
    scale_A = (power_AE @ (weight_E * value_E)) / (power_AE**2 @ weight_E)
    if floor:
        # Weighted regression of value on power, centred: no digits are lost where powers are nearly constant.
        mean_power_A = (power_AE @ weight_E) / weight_E.sum()
        mean_value = float(value_E @ weight_E) / float(weight_E.sum())
        centred_AE = power_AE - mean_power_A[:, None]
        spread_A = centred_AE**2 @ weight_E
        slope_A = (centred_AE @ (weight_E * value_E)) / np.where(spread_A > 0, spread_A, 1)
        intercept_A = mean_value - slope_A * mean_power_A
        allowed_A = intercept_A >= 0
        floor_A = np.where(allowed_A, intercept_A, floor_A)
        scale_A = np.where(allowed_A, slope_A, scale_A)
    residual_AE = (floor_A[:, None] + scale_A[:, None] * power_AE) / value_E - 1
    return floor_A, scale_A, np.sum(residual_AE**2, axis=1)


def _r_squared(seen_E: Floats, fitted_E: Floats) -> float:
    spread = float(np.sum((seen_E - seen_E.mean()) ** 2))
    return 1 - float(np.sum((seen_E - fitted_E) ** 2)) / spread if spread > 0 else 0.0
