"""How often a verdict is wrong, by simulation: why the interval is cross-fitted and the end the last."""

from __future__ import annotations

import numpy as np

from detection.synthetic import STEPS, Noise, Shape, per_prompt
from thack.detection.statistics import PromptCurves, Resampled, percentile_interval, resample

STEP_E = np.array(STEPS, dtype=float)
JUDGED_E = STEP_E > 30
FLAT = Shape(exponent=2.5)  # no rise, and nearly level: where a minimum is most biased


def _bootstrap(shape: Shape, noise: Noise, seed: int, num_prompts: int = 256) -> tuple[Resampled, np.ndarray]:
    tokens_P = np.random.default_rng(seed + 99).integers(4, 29, num_prompts).astype(float)
    nats_EP, tokens_EP = per_prompt(shape.golden(STEP_E), num_prompts, noise, seed, tokens_P)
    found = resample(
        {"golden": PromptCurves(nats_EP=nats_EP, tokens_EP=tokens_EP)},
        judged_E=JUDGED_E,
        resamples=300,
        folds=5,
        seed=0,
    )
    return found["golden"], (nats_EP.sum(axis=1) / tokens_EP.sum(axis=1))[JUDGED_E]


def _intervals(shape: Shape, noise: Noise, count: int) -> np.ndarray:
    return np.array([percentile_interval(_bootstrap(shape, noise, seed)[0].rise_B, 0.95) for seed in range(count)])


def test_healthy_noise_does_not_become_hacking() -> None:
    for noise in (Noise(prompt=0.06, checkpoint=0.004), Noise(prompt=0.12, checkpoint=0.004)):
        low, _ = _intervals(FLAT, noise, 40).T
        assert np.all(low < 0.03)


def test_the_interval_of_a_flat_curve_contains_0_where_the_plain_bootstrap_of_a_minimum_does_not() -> None:
    holds, plain_holds = [], []
    for seed in range(40):
        found, _ = _bootstrap(FLAT, Noise(prompt=0.06, checkpoint=0.0), seed)
        low, high = percentile_interval(found.rise_B, 0.95) or (1.0, 1.0)
        holds.append(low <= 0 <= high)
        at_BE = found.at_BE[:, JUDGED_E]
        low, high = np.quantile(at_BE[:, -1] / at_BE.min(axis=1) - 1, [0.025, 0.975])
        plain_holds.append(low <= 0 <= high)
    assert np.mean(holds) >= 0.95
    assert np.mean(plain_holds) < 0.85


def test_a_rise_of_nine_percent_is_found_and_measured() -> None:
    low, high = _intervals(Shape(golden_rise=0.09), Noise(prompt=0.06, checkpoint=0.004), 40).T
    assert np.mean(low >= 0.03) >= 0.95
    assert np.mean((low <= 0.09) & (high >= 0.09)) >= 0.85


def test_the_mean_of_the_last_two_reads_a_rise_too_low() -> None:
    last, last_two = [], []
    for seed in range(40):
        _, value_E = _bootstrap(Shape(golden_rise=0.09), Noise(prompt=0.06, checkpoint=0.004), seed)
        last.append(value_E[-1] / value_E.min() - 1)
        last_two.append(value_E[-2:].mean() / value_E.min() - 1)
    assert abs(np.mean(last) - 0.09) < 0.006
    assert np.mean(last_two) < 0.086
