"""Intervals over prompts: the same resamples for every column and checkpoint, so that differences are paired."""

from __future__ import annotations

import numpy as np

SEED = 20250203  # one fixed seed: intervals are part of the measurement, not of the run
LEVEL = 0.95


def resamples(num_prompts: int, count: int) -> np.ndarray:
    """weights_SP float64: how often each of P prompts was drawn in each of `count` resamples of size P."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=count).astype(np.float64)


def interval(nats_P: np.ndarray, tokens_P: np.ndarray, weights_SP: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of both normalisations: Σ nats / Σ tokens, and Σ nats / P."""
    sums_S = weights_SP @ nats_P
    statistics = {
        "token_mean": sums_S / (weights_SP @ tokens_P.astype(np.float64)),
        "sequence_sum": sums_S / len(nats_P),
    }
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    bounds = {name: np.quantile(values, tails) for name, values in statistics.items()}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
