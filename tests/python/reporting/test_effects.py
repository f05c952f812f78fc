"""A mean over seeds, with Student's interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.reporting.effects import effect_of

QUANTILES = {2: 12.7062, 3: 4.30265, 4: 3.18245, 5: 2.77645, 6: 2.57058, 7: 2.44691, 8: 2.36462}  # of a table


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-2, 2))
def test_the_interval_is_students(values: list[float], shift: float) -> None:
    found = effect_of(dict(enumerate(values)))
    n = len(values)
    half = QUANTILES[n] * np.std(values, ddof=1) / math.sqrt(n)
    assert found.low is not None and found.high is not None
    np.testing.assert_allclose(
        [found.low, found.mean, found.high], np.mean(values) + np.array([-half, 0, half]), rtol=1e-3, atol=1e-3
    )
    moved = effect_of({seed: value + shift for seed, value in enumerate(values)})
    np.testing.assert_allclose(moved.mean, found.mean + shift, atol=1e-12)


def test_one_seed_has_no_interval_and_every_seed_is_kept() -> None:
    found = effect_of({4: 0.5})
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    found = effect_of({4: 0.5, 2: 1.5})
    assert (found.seeds, found.values) == ((4, 2), (0.5, 1.5)) and found.mean == pytest.approx(1.0)


def test_less_confidence_is_a_narrower_interval() -> None:
    wide, narrow = (effect_of({0: 1.0, 1: 2.0}, confidence) for confidence in (0.95, 0.5))
    assert wide.low is not None and narrow.low is not None
    assert wide.low < narrow.low < narrow.mean
