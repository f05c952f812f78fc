"""Fits that recover what was put in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from thack.detection import Series, fit_power_law
from thack.errors import UsageError

STEP = np.geomspace(10, 3000, 20)


@settings(max_examples=30, deadline=None)
@example(floor=0.25, scale=13.0, exponent=0.375)  # between two exponents of the first grid
@given(floor=st.floats(0.05, 2), scale=st.floats(1, 20), exponent=st.floats(0.3, 2.0))
def test_an_exact_law_is_recovered(floor: float, scale: float, exponent: float) -> None:
    law = fit_power_law(Series(step=STEP, value=floor + scale * STEP**-exponent))
    assert law is not None
    assert law.exponent == pytest.approx(exponent, abs=0.02)
    assert law.floor == pytest.approx(floor, rel=0.05, abs=0.02)
    assert law.r_squared > 0.999


def test_a_straight_line_in_log_log_needs_no_floor() -> None:
    law = fit_power_law(Series(step=STEP, value=3 * STEP**-0.4), floor=False)
    assert law is not None and law.floor == 0 and law.exponent == pytest.approx(0.4, abs=1e-9)
    np.testing.assert_allclose(law(STEP), 3 * STEP**-0.4, rtol=1e-9)


def test_the_interval_holds_the_exponent_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        noise = np.exp(0.01 * np.random.default_rng(seed).standard_normal(len(STEP)))
        law = fit_power_law(Series(step=STEP, value=(0.5 + 3 * STEP**-0.6) * noise))
        assert law is not None and law.exponent_interval is not None
        held += law.exponent_interval[0] <= 0.6 <= law.exponent_interval[1]
    assert 51 <= held <= 60


def test_the_window_is_declared_and_kept() -> None:
    law = fit_power_law(Series(step=STEP, value=3 * STEP**-0.4), window=(100, 1000))
    assert law is not None and law.window[0] >= 100 and law.window[1] <= 1000


def test_too_few_points_fit_nothing() -> None:
    assert fit_power_law(Series(step=STEP[:3], value=STEP[:3] ** -0.5)) is None


def test_a_rising_curve_has_a_negative_exponent() -> None:
    law = fit_power_law(Series(step=STEP, value=STEP**0.1), floor=False)
    assert law is not None and law.exponent == pytest.approx(-0.1, abs=1e-9)


def test_a_confidence_of_one_is_refused() -> None:
    with pytest.raises(UsageError):
        fit_power_law(Series(step=STEP, value=STEP), confidence=1.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_the_one_that_scipy_finds(seed: int) -> None:
    """The same sum of squares of relative errors, minimised over floor, scale and exponent at once."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(seed)
    value = (0.4 + 2.0 * STEP ** -rng.uniform(0.5, 1.2)) * np.exp(0.02 * rng.standard_normal(len(STEP)))
    ours = fit_power_law(Series(step=STEP, value=value))
    assert ours is not None

    def errors(parameters: np.ndarray) -> np.ndarray:
        floor, scale, exponent = map(float, parameters)
        return np.asarray((floor + scale * STEP**-exponent) / value - 1)

    start = [ours.floor, ours.scale, ours.exponent]
    found = optimize.least_squares(errors, start, bounds=([0, -np.inf, -1], [np.inf, np.inf, 4]), xtol=1e-12)
    assert np.sum(errors(np.array(start)) ** 2) == pytest.approx(2 * found.cost, rel=1e-3)
    assert ours.exponent == pytest.approx(found.x[2], abs=2e-3)
    assert ours.floor == pytest.approx(found.x[0], abs=5e-3)
