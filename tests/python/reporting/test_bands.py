"""The numbers behind the curves: of one run with its interval, of seeds with their median and range."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting.values import GOLDEN_E, STEPS, curves, extent, judged, run, unjudged
from thack.detection.statistics import PromptCurves, paired_band
from thack.reporting.bands import band_of, curves_csv, smoothed
from thack.reporting.inputs import ArmRuns, JudgedRun
from thack.schema.metrics import GOLDEN, Series
from thack.schema.verdict import Margins

MARGINS = Margins(resamples=200, confidence=0.9, seed=3)


def prompts() -> PromptCurves:
    """32 prompts whose mean is golden, each with a noise of its own."""
    rng = np.random.default_rng(0)
    tokens_EP = np.full((5, 32), 8.0)
    noise_EP = 1 + 0.1 * rng.standard_normal((5, 32))
    return PromptCurves(nats_EP=np.array(GOLDEN_E)[:, None] * noise_EP * tokens_EP, tokens_EP=tokens_EP)


def test_one_run_without_prompts_has_no_bounds() -> None:
    band = band_of(ArmRuns("a", (run(),)), "golden")
    assert band is not None and band.low is None and band.high is None
    np.testing.assert_array_equal(band.step, STEPS)
    np.testing.assert_array_equal(band.value, GOLDEN_E)


def test_one_runs_interval_is_of_the_ratio_to_the_minimum() -> None:
    with_prompts = curves(per_prompt={GOLDEN.per_prompt: prompts()})
    one = run(curves=with_prompts, verdict=judged(golden=extent(), margins=MARGINS))
    band = band_of(ArmRuns("a", (one,)), "golden")
    assert band is not None and band.low is not None and band.high is not None
    low_E, high_E = paired_band(prompts(), 3, resamples=200, confidence=0.9, seed=3)
    np.testing.assert_allclose(band.low, low_E * 1.0)
    np.testing.assert_allclose(band.high, high_E * 1.0)
    assert band.low[3] == band.high[3] == 1.0, "no width at the minimum itself"
    assert np.all(band.low <= band.high)


def test_no_interval_without_a_verdict_or_where_values_are_missing() -> None:
    with_prompts = curves(per_prompt={GOLDEN.per_prompt: prompts()})
    unknown = band_of(ArmRuns("a", (run(curves=with_prompts, verdict=unjudged()),)), "golden")
    assert unknown is not None and unknown.low is None
    gap = {**with_prompts.columns, str(GOLDEN): np.array([2.0, np.nan, 1.2, 1.0, 1.1])}
    short = run(curves=curves(columns=gap, per_prompt=with_prompts.per_prompt), verdict=judged(golden=extent()))
    band = band_of(ArmRuns("a", (short,)), "golden")
    assert band is not None and band.low is None and len(band.step) == 4


def test_seeds_have_their_median_and_range_at_the_steps_that_all_have() -> None:
    other = {**curves().columns, str(GOLDEN): np.array([4.0, np.nan, 2.4, 2.0, 2.2])}
    third = {**curves().columns, str(GOLDEN): np.array([3.0, 3.0, 1.8, 1.5, 1.0])}
    arm = ArmRuns(
        "a", tuple(run("a", i, curves=curves(columns=c)) for i, c in enumerate((curves().columns, other, third)))
    )
    band = band_of(arm, "golden")
    assert band is not None and band.low is not None and band.high is not None
    assert band.step.tolist() == [0.0, 50.0, 100.0, 200.0]
    assert band.value.tolist() == [3.0, 1.8, 1.5, 1.1]
    assert band.low.tolist() == [2.0, 1.2, 1.0, 1.0] and band.high.tolist() == [4.0, 2.4, 2.0, 2.2]


def shorter(seed: int, num_evaluations: int) -> JudgedRun:
    """A run that ended, or was stopped, after some evaluations."""
    usual = curves()
    kept = {name: value_E[:num_evaluations] for name, value_E in usual.columns.items()}
    return run("a", seed, curves=curves(step_E=usual.step_E[:num_evaluations], columns=kept))


def test_a_seed_that_ends_early_leaves_the_others() -> None:
    band = band_of(ArmRuns("a", (run("a", 0), shorter(1, 3), run("a", 2))), "golden")
    assert band is not None and band.step.tolist() == list(STEPS) and band.value.tolist() == list(GOLDEN_E)
    assert band.ends == (50.0,)
    band = band_of(ArmRuns("a", tuple(run("a", seed) for seed in range(3))), "golden")
    assert band is not None and band.ends == ()


def test_where_a_seed_was_stopped_between_two_evaluations_of_the_others_only_they_count() -> None:
    stopped = curves(step_E=np.array([0.0, 10.0, 60.0]), columns={str(GOLDEN): np.array([2.0, 1.5, 0.1])})
    arm = ArmRuns("a", (run("a", 0), run("a", 1, curves=replace(stopped, column_of={"golden": str(GOLDEN)}))))
    band = band_of(arm, "golden")
    assert band is not None and band.step.tolist() == [0.0, 10.0, 100.0, 200.0] and band.ends == (10.0,)
    assert band.value[-1] == GOLDEN_E[-1]


def test_a_curve_that_is_not_there() -> None:
    assert band_of(ArmRuns("a", (run(),)), "fresh") is None
    one = curves(step_E=np.array(STEPS) + 1)
    assert band_of(ArmRuns("a", (run("a", 0), run("a", 1, curves=one))), "golden") is None, "no step in common"
    alone = ArmRuns("a", (run("a", 0, curves=curves(column_of={})), run("a", 1)))
    band = band_of(alone, "golden")
    assert band is not None and band.value.tolist() == list(GOLDEN_E), "one seed of two has it"


@given(st.integers(2, 400), st.floats(0.1, 2.0))
def test_a_power_law_stays_one_when_smoothed(count: int, exponent: float) -> None:
    step = np.arange(1.0, count + 1)
    found = smoothed(Series(step=step, value=step**-exponent))
    assert len(found) <= max(80, 40)
    np.testing.assert_allclose(found.value, found.step**-exponent, rtol=1e-6)
    assert np.all(np.diff(found.step) > 0)


def test_smoothing_leaves_out_what_has_no_logarithm() -> None:
    found = smoothed(Series(step=np.array([0.0, 1.0, 2.0, 3.0]), value=np.array([1.0, 0.0, 2.0, -1.0])))
    assert (found.step.tolist(), found.value.tolist()) == ([2.0], [2.0])


def test_csv_has_every_value_of_every_run() -> None:
    arms = [ArmRuns("a", (run("a", 0), run("a", 1))), ArmRuns("b", (run("b"),))]
    rows = list(csv.DictReader(io.StringIO(curves_csv(arms, ("golden", "fresh")))))
    assert len(rows) == 3 * len(STEPS)
    assert rows[0] == {
        "arm": "a",
        "seed": "0",
        "run": "a-0",
        "step": "0",
        "metric": "golden",
        "column": str(GOLDEN),
        "value": "2.0",
    }
    assert rows[-1]["seed"] == "" and float(rows[-1]["value"]) == pytest.approx(1.1)
