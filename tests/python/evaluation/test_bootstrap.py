"""Intervals over prompts: vectorised equals drawn one by one, and cover as they promise."""

from __future__ import annotations

import numpy as np

from thack.evaluation.bootstrap import interval, resamples


def test_weights_are_resamples_of_the_prompts_and_repeatable() -> None:
    weights = resamples(40, 300)
    assert weights.shape == (300, 40)
    assert (weights.sum(axis=1) == 40).all()
    assert np.array_equal(weights, resamples(40, 300))
    # A prompt is left out of a resample with probability (1 − 1/P)^P ≈ e^-1.
    assert abs((weights == 0).mean() - 0.363) < 0.02


def test_equals_resampling_written_out() -> None:
    rng = np.random.default_rng(0)
    nats, tokens = rng.gamma(2.0, 3.0, 25), rng.integers(1, 9, 25)
    weights = resamples(25, 200)
    ratios, sums = [], []
    for row in weights.astype(int):
        drawn = np.repeat(np.arange(25), row)
        ratios.append(nats[drawn].sum() / tokens[drawn].sum())
        sums.append(nats[drawn].sum() / 25)
    found = interval(nats, tokens, weights)
    np.testing.assert_allclose(found["token_mean"], np.quantile(ratios, [0.025, 0.975]))
    np.testing.assert_allclose(found["sequence_sum"], np.quantile(sums, [0.025, 0.975]))


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    weights = resamples(80, 400)
    hits = 0
    for _ in range(300):
        low, high = interval(rng.gamma(2.0, 1.0, 80), np.ones(80, dtype=int), weights)["token_mean"]
        hits += low <= 2.0 <= high
    assert 0.89 < hits / 300 < 0.98
