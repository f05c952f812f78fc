"""Intervals over prompts: vectorised equals drawn one by one, and cover as often as they say. Student's quantiles."""

from __future__ import annotations

import numpy as np
import pytest

from thack.detection.statistics import percentile_interval, prompt_weights, reduced_interval, student_quantile
from thack.schema.metric_rows import PromptSums


def weights_of(num_prompts: int, count: int) -> np.ndarray:
    return prompt_weights(np.random.default_rng(7), num_prompts, count)


def test_weights_are_resamples_of_the_prompts_and_repeatable() -> None:
    weights = weights_of(40, 300)
    assert weights.shape == (300, 40)
    assert (weights.sum(axis=1) == 40).all()
    assert np.array_equal(weights, weights_of(40, 300))
    # A prompt is left out of a resample with probability (1 − 1/P)^P ≈ e^-1.
    assert abs((weights == 0).mean() - 0.363) < 0.02


def test_equals_resampling_written_out() -> None:
    rng = np.random.default_rng(0)
    nats, tokens = rng.gamma(2.0, 3.0, 25), rng.integers(1, 9, 25)
    weights = weights_of(25, 200)
    ratios, sums = [], []
    for row in weights.astype(int):
        drawn = np.repeat(np.arange(25), row)
        ratios.append(nats[drawn].sum() / tokens[drawn].sum())
        sums.append(nats[drawn].sum() / 25)
    given = PromptSums(nats_P=nats, tokens_P=tokens, bytes_P=3 * tokens)
    for reduction, values in (("token_mean", ratios), ("byte_mean", np.array(ratios) / 3), ("sequence_sum", sums)):
        found = reduced_interval(given, reduction, weights, 0.95)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, np.quantile(values, [0.025, 0.975]))
    left_out = PromptSums(nats_P=np.append(nats, 0.0), tokens_P=np.append(tokens, 0))
    assert left_out.mean("sequence_sum") == nats.mean()


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    weights = weights_of(80, 400)
    hits = 0
    for _ in range(300):
        sums = PromptSums(nats_P=rng.gamma(2.0, 1.0, 80), tokens_P=np.ones(80, dtype=int))
        low, high = reduced_interval(sums, "token_mean", weights, 0.95)
        hits += low <= 2.0 <= high
    assert 0.89 < hits / 300 < 0.98


def test_an_interval_needs_twenty_numbers() -> None:
    values = np.append(np.arange(19.0), [np.nan, np.inf])
    assert percentile_interval(values, 0.95) is None
    assert percentile_interval(np.append(values, 19.0), 0.9) == pytest.approx((0.95, 18.05))


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (10, 2.22814), (100, 1.98397)]
)
def test_students_quantiles_are_the_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, rel=1e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30, 200])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.975, 0.995])
def test_students_quantiles_are_those_of_scipy(probability: float, freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf(probability, freedom)
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-6, abs=1e-9)
