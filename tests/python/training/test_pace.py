"""The time left counts evaluations, and their share is told."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from thack.training.pace import Pace
from thack.training.trainer import Trainer


class Clock:
    """Seconds that a test adds up."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def evaluated(pace: Pace, clock: Clock, seconds: float) -> None:
    with pace.evaluation():
        clock.now += seconds


def stepped(pace: Pace, clock: Clock, seconds: float, times: int = 1) -> None:
    for _ in range(times):
        clock.now += seconds
        pace.count(num_tokens=50)


def test_the_time_left_is_that_of_steps_and_of_evaluations() -> None:
    clock = Clock()
    pace = Pace(48, [0, 1, 24, 48], clock)
    evaluated(pace, clock, 142.0)
    stepped(pace, clock, 0.5)
    assert pace.left(1) == 0.5 * 47 + 142.0 * 2, "the evaluation of this step is done, or as good as"
    evaluated(pace, clock, 20.0)
    stepped(pace, clock, 0.5, times=9)
    assert pace.left(10) == 0.5 * 38 + 20.0 * 2
    assert pace.tokens_per_s == 100
    stepped(pace, clock, 0.5, times=14)
    evaluated(pace, clock, 20.0)
    assert pace.left(24) == 0.5 * 24 + 20.0


def test_a_resumed_run_counts_what_is_ahead_of_it() -> None:
    clock = Clock()
    pace = Pace(100, [0, 50, 100], clock)
    stepped(pace, clock, 2.0)
    assert pace.left(60) == 2.0 * 40, "no evaluation is measured yet"
    assert [pace.evaluating(step) for step in (0, 50, 51, 100)] == [
        "evaluating 1 of 3",
        "evaluating 2 of 3",
        "evaluating",
        "evaluating 3 of 3",
    ]


def test_the_share_of_evaluations_is_told_once_before_and_at_the_end() -> None:
    clock = Clock()
    pace = Pace(10, [0, 5, 10], clock)
    assert pace.forecast(0) is None
    evaluated(pace, clock, 30.0)
    assert pace.forecast(0) is None
    stepped(pace, clock, 1.0, times=5)
    evaluated(pace, clock, 20.0)
    assert pace.forecast(5) == (
        "evaluations: about 88% of the run's time (1 to come, 20.0 s each; a step takes 1 s);"
        " `evaluation.count` makes them fewer"
    )
    assert pace.forecast(5) is None
    stepped(pace, clock, 1.0, times=5)
    evaluated(pace, clock, 20.0)
    assert pace.summary() == "evaluations took 88% of 80 s (3 of them)"


def test_nothing_is_told_about_short_runs() -> None:
    clock = Clock()
    pace = Pace(2, [0, 2], clock)
    evaluated(pace, clock, 1.0)
    stepped(pace, clock, 1.0, times=2)
    evaluated(pace, clock, 1.0)
    assert pace.forecast(2) is None and pace.summary() is None
    assert Pace(5, []).summary() is None


def test_a_line_of_progress_knows_the_time_left_before_it_is_printed() -> None:
    clock = Clock()
    pace, told = Pace(10, [], clock), list[str]()
    stepped(pace, clock, 0.5)
    trainer = SimpleNamespace(pace=pace, step=1, model=SimpleNamespace(device=torch.device("cpu")))
    bar = SimpleNamespace(left=lambda seconds: told.append("left"), advance=lambda *_, **__: told.append("advance"))
    Trainer._show(trainer, bar, 1.0, 0.1, 50, {})  # type: ignore[arg-type]
    assert told == ["left", "advance"]
