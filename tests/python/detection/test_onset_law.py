"""The law of onset against runs that follow one, and its forecast."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from thack.detection.onset_law import fit_onset_law, onset_forecast
from thack.errors import UsageError
from thack.schema.onset import OnsetLaw, OnsetRun

TRUE = {"tokens": 0.3, "responses_per_prompt": 0.2, "parameters": -0.4}
TASKS = {"one": 1.5, "other": 1.9}


def runs(spread: float = 0.15, spacing: float = 1.6, longest: float = 1e9, seed: int = 0) -> list[OnsetRun]:
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
                        OnsetRun(
                            task=task,
                            tokens=tokens,
                            responses_per_prompt=responses,
                            parameters=int(parameters),
                            after=spacing**cell if seen else longest,
                            before=spacing ** (cell + 1) if seen else None,
                        )
                    )
    return found


@cache
def law_of_all() -> OnsetLaw:
    return fitted(runs())


def fitted(given: list[OnsetRun]) -> OnsetLaw:
    law = fit_onset_law(given)
    assert law is not None
    return law


def test_exponents_and_intercepts_are_found_within_their_intervals() -> None:
    law = law_of_all()
    for name, true in TRUE.items():
        low, high = law.intervals[name]  # type: ignore[index]
        assert low <= true <= high and abs(law.exponents[name] - true) < 0.08  # type: ignore[index]
    assert law.intercepts["other"] - law.intercepts["one"] == pytest.approx(0.4, abs=0.1)
    assert law.spread == pytest.approx(0.15, abs=0.05) and law.num_runs == 54 and law.num_without == 0


def test_runs_that_had_not_turned_do_not_shorten_the_law() -> None:
    """Cut at the median: half of the runs are known from below only."""
    whole = sorted(run.before or 0 for run in runs())
    given = runs(longest=whole[len(whole) // 2])
    law = fitted(given)
    assert law.num_without > 15
    assert all(abs(law.exponents[name] - true) < 0.15 for name, true in TRUE.items())  # type: ignore[index]
    shortened = fitted([run for run in given if run.before is not None])
    assert abs(shortened.exponents["tokens"] - 0.3) > abs(law.exponents["tokens"] - 0.3)


def test_a_size_that_was_left_out_is_foretold() -> None:
    law = fitted(runs(spread=0.01, spacing=1.01))
    assert {one.covariate for one in law.left_out} == set(TRUE)
    assert all(1 <= one.factor < 1.05 and one.num_runs > 0 for one in law.left_out)


def test_a_forecast_covers_other_runs_of_the_same_law() -> None:
    law, inside = law_of_all(), 0
    others = runs(seed=1, spacing=1.0001)
    for run in others:
        low, high = onset_forecast(
            law,
            tokens=run.tokens,
            responses_per_prompt=run.responses_per_prompt,
            parameters=run.parameters,
            task=run.task,
        ).interval
        inside += low <= run.after <= high
    assert inside / len(others) >= 0.88


def test_a_forecast_of_an_unknown_task_is_wider_and_says_what_lies_outside() -> None:
    law = law_of_all()
    known = onset_forecast(law, tokens=9000, responses_per_prompt=1, parameters=2e5, task="one")
    other = onset_forecast(law, tokens=9000, responses_per_prompt=1, parameters=7e9)
    assert not known.outside and set(other.outside) == {"parameters"}
    assert other.outside["parameters"] == pytest.approx(7e9 / 4e5)
    unknown = onset_forecast(law, tokens=9000, responses_per_prompt=1, parameters=2e5)
    assert unknown.interval[1] / unknown.interval[0] > known.interval[1] / known.interval[0]
    with pytest.raises(UsageError, match="no task 'third'"):
        onset_forecast(law, tokens=9000, responses_per_prompt=1, parameters=2e5, task="third")


def test_too_few_runs_make_no_law() -> None:
    assert fit_onset_law(runs()[:4]) is None
    assert fit_onset_law([]) is None


def test_a_law_is_read_as_it_was_written() -> None:
    law = law_of_all()
    assert OnsetLaw.parse(law.dump(), "law") == law
