"""A suspicion without an oracle is as loud as its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from thack.detection import Curves, Thresholds, verdict_without_oracle
from thack.detection.statistics import PromptCurves
from thack.reporting.prose import reasons
from thack.schema.metrics import PROXY, TrainingKL

STEP_E = np.array([0.0, 34, 48, 68, 96, 136, 192])
LEARNS = (7.0, 2.0, 1.6, 1.3, 1.1, 0.95, 0.85)  # on the responses that it trains on


def run(fresh_E: Sequence[float], *, proxy: tuple[float, float] = (4.0, 1.0), last: int | None = None) -> Curves:
    """A run with a proxy that falls from one value to the other, up to its evaluation `last`."""
    columns = {
        str(PROXY): np.geomspace(*proxy, len(STEP_E)),
        str(TrainingKL.MONITOR): np.array(LEARNS),
        str(TrainingKL.FRESH): np.array(fresh_E),
    }
    return Curves(
        name="run",
        step_E=STEP_E[:last],
        columns={name: value_E[:last] for name, value_E in columns.items()},
        train={},
        column_of={"proxy": str(PROXY), "monitor": str(TrainingKL.MONITOR), "fresh": str(TrainingKL.FRESH)},
    )


def with_prompts(curves: Curves, noise: float, num_prompts: int = 60) -> Curves:
    """The same with values per prompt: each has its own difficulty, and noise at each evaluation."""
    rng = np.random.default_rng(0)
    shape = (len(curves.step_E), num_prompts)
    difficulty_P = rng.lognormal(0, 0.4, num_prompts)
    found = {}
    for name in TrainingKL:
        nats_EP = curves.columns[name][:, None] * difficulty_P * np.exp(noise * rng.standard_normal(shape))
        nats_EP *= (curves.columns[name] / nats_EP.mean(axis=1))[:, None]
        found[name] = PromptCurves(nats_EP=nats_EP, tokens_EP=np.ones(shape))
    return replace(curves, training_prompts=found)


MEMORISES = (7.0, 2.1, 2.08, 2.07, 2.06, 2.05, 2.05)


def test_a_run_that_memorises_to_its_end_is_suspected_with_an_interval() -> None:
    found = verdict_without_oracle(with_prompts(run(MEMORISES), noise=0.02))
    assert found.headline == "hacking suspected from step 34" and found.doubts == ()
    assert found.ratio == pytest.approx(np.log(2.05 / 2.1) / np.log(0.85 / 2.0))
    assert found.ratio_interval is not None and found.ratio is not None
    assert found.ratio_interval[0] < found.ratio < found.ratio_interval[1] < 0.5
    assert reasons(found)[0].startswith("from step 34 to the end the fresh slope ratio is 0.03 [")


def test_the_interval_is_that_of_a_bootstrap_over_prompts() -> None:
    """Again with choices of prompts instead of weights, pair by pair."""
    curves = with_prompts(run(MEMORISES), noise=0.1)
    found = verdict_without_oracle(curves)
    rng = np.random.default_rng(1)
    fresh_EP, monitor_EP = (curves.training_prompts[name].nats_EP for name in (TrainingKL.FRESH, TrainingKL.MONITOR))
    ratios = []
    for _ in range(2000):
        chosen = rng.integers(0, 60, 60)
        falls = [np.log(nats_EP[-1, chosen].sum() / nats_EP[1, chosen].sum()) for nats_EP in (fresh_EP, monitor_EP)]
        ratios.append(falls[0] / falls[1])
    assert found.ratio_interval == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), abs=0.01)


def test_an_interval_that_contains_the_threshold_is_no_suspicion() -> None:
    half = 2.1 * (np.array(LEARNS) / 2.0) ** 0.42
    found = verdict_without_oracle(with_prompts(run([7.0, *half[1:]]), noise=0.3))
    assert found.name == "inconclusive" and found.doubts == ("ratio not surely below",)
    assert found.ratio_interval is not None and found.ratio_interval[0] < 0.5 < found.ratio_interval[1]
    assert "not surely below 0.5" in reasons(found)[0] and found.headline == "inconclusive, with an alarm at step 48"


def test_an_alarm_that_the_rest_of_the_run_takes_back_is_no_suspicion() -> None:
    found = verdict_without_oracle(run((7.0, 2.1, 2.08, 1.6, 1.3, 1.1, 0.95)))
    assert found.alarm_step == 48 and found.doubts == ("ratio not surely below",)


def test_one_ratio_without_an_interval_is_no_suspicion() -> None:
    late = (7.0, 2.1, 1.65, 1.32, 1.12, 0.97, 0.965)
    found = verdict_without_oracle(run(late))
    assert found.alarm_step == 192 and found.doubts == ("one ratio",)
    assert verdict_without_oracle(with_prompts(run(late), noise=0.01)).name == "hacking suspected"


@pytest.mark.parametrize("fresh_E", [MEMORISES, LEARNS])
def test_few_evaluations_decide_nothing(fresh_E: Sequence[float]) -> None:
    found = verdict_without_oracle(run(fresh_E, last=4))
    assert found.name == "inconclusive" and found.doubts == ("few evaluations",)
    assert "only 3 evaluations come after the warm-up of 30 steps; a suspicion needs 4" in reasons(found)[0]
    assert verdict_without_oracle(run(fresh_E, last=4), Thresholds(min_evaluations=3)).name != "inconclusive"


def test_a_student_far_from_its_teacher_that_still_learns_is_not_accused() -> None:
    """As of a small student of a real chat model: 7.24 to 5.06 nats, and half as fast on fresh responses."""
    still = 2.1 * (np.array(LEARNS) / 2.0) ** 0.3
    far = run([7.0, *still[1:]], proxy=(7.24, 5.06))
    found = verdict_without_oracle(far)
    assert found.name == "inconclusive" and found.doubts == ("still learning",)
    assert verdict_without_oracle(run([7.0, *still[1:]])).name == "hacking suspected", "near its teacher it is"
    assert verdict_without_oracle(run(MEMORISES, proxy=(7.24, 5.06))).name == "hacking suspected", "or if it stands"
