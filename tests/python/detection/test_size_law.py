"""Power laws by sizes against runs that follow one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from thack.detection.size_law import fit_size_law
from thack.schema.size_law import Quantity, SizedRun, SizeLaw

TRUE = {"tokens": 0.3, "responses_per_prompt": 0.2, "parameters": -0.4}
PASSES: Quantity = "passes until golden turns"
TASKS = {"one": 1.5, "other": 1.9}


def runs(spread: float = 0.15, spacing: float = 1.6, longest: float = 1e9, seed: int = 0) -> list[SizedRun]:
    """Every combination of sizes, each known between two evaluations only."""
    rng = np.random.default_rng(seed)
    found = []
    for task, intercept in TASKS.items():
        for prompts in (128, 512, 2048):
            for responses in (1, 2, 5):
                for parameters in (1e5, 2e5, 4e5):
                    tokens = 18 * prompts * responses
                    log = intercept + 0.3 * math.log(tokens) + 0.2 * math.log(responses) - 0.4 * math.log(parameters)
                    passes = math.exp(log + spread * rng.normal())
                    cell = math.floor(math.log(passes, spacing))
                    seen = passes < longest
                    found.append(
                        SizedRun(
                            task=task,
                            tokens=tokens,
                            responses_per_prompt=responses,
                            parameters=int(parameters),
                            low=spacing**cell if seen else longest,
                            high=spacing ** (cell + 1) if seen else None,
                        )
                    )
    return found


@cache
def law_of_all() -> SizeLaw:
    return fitted(runs())


def fitted(given: list[SizedRun]) -> SizeLaw:
    law = fit_size_law(given, PASSES, batch_size=32, learning_rate=1e-3)
    assert law is not None
    return law


def test_exponents_and_intercepts_are_found_within_their_intervals() -> None:
    law = law_of_all()
    for name, true in TRUE.items():
        low, high = law.intervals[name]  # type: ignore[index]
        assert low <= true <= high and abs(law.exponents[name] - true) < 0.08  # type: ignore[index]
    assert law.intercepts["other"] - law.intercepts["one"] == pytest.approx(0.4, abs=0.1)
    assert 0.15 < law.spread < 0.25 and law.num_runs == 54 and law.num_open == 0


def test_runs_that_had_not_turned_do_not_shorten_the_law() -> None:
    """Cut at the median: half of the runs are known from below only."""
    whole = sorted(run.high or 0 for run in runs())
    given = runs(longest=whole[len(whole) // 2])
    law = fitted(given)
    assert law.num_open > 15
    assert all(abs(law.exponents[name] - true) < 0.15 for name, true in TRUE.items())  # type: ignore[index]
    shortened = fitted([run for run in given if run.high is not None])
    assert abs(shortened.exponents["tokens"] - 0.3) > abs(law.exponents["tokens"] - 0.3)


def test_a_size_that_was_left_out_is_foretold() -> None:
    law = fitted(runs(spread=0.01, spacing=1.01))
    assert {one.covariate for one in law.left_out} == set(TRUE)
    assert all(1 <= one.factor < 1.05 and one.num_runs > 0 for one in law.left_out)


def test_too_few_runs_make_no_law() -> None:
    assert fit_size_law(runs()[:4], PASSES, batch_size=32, learning_rate=1e-3) is None
    assert fit_size_law([], PASSES, batch_size=32, learning_rate=1e-3) is None


def test_sizes_that_hardly_differ_have_no_exponent() -> None:
    """As the tokens of a grid whose arms have as many responses each; nor is there anything to leave out of the fit."""
    given = [replace(run, tokens=2900 + i, parameters=100_000) for i, run in enumerate(runs())]
    law = fitted(given)
    assert set(law.exponents) == {"responses_per_prompt"} == {one.covariate for one in law.left_out}
    alike = [replace(run, responses_per_prompt=1) for run in given]
    assert fit_size_law(alike, PASSES, batch_size=32, learning_rate=1e-3) is None
