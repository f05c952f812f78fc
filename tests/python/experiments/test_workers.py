"""Stages side by side: what fails takes its downstream with it, and nothing else; who dies is found out."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from thack.errors import Interrupted, Preempted
from thack.experiments.stages import Stage
from thack.experiments.workers import Workers, run_stages
from thack.runtime.progress import SILENT

from .jobs import IMPORT_PATH, die, die_once, endless, fail, named, preempted, report, signal_all, slow, stumble, write


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(IMPORT_PATH)


class Recorded:
    """A progress that keeps what it was asked to draw."""

    def __init__(self) -> None:
        self.events: list[object] = []

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[Recorded]:
        self.events.append((name, total, unit))
        yield self
        self.events.append("closed")

    def advance(self, amount: float = 1, **fields: object) -> None:
        self.events.append((amount, fields))

    def left(self, seconds: float) -> None:
        pass

    def note(self, message: str) -> None:
        self.events.append(message)


def test_a_failure_takes_its_downstream_with_it_and_nothing_else(tmp_path: Path) -> None:
    bad = named(tmp_path, "bad", fail)
    above = named(tmp_path, "above", partial(write, "x"), bad)
    top = named(tmp_path, "top", partial(write, "x"), above)
    good = named(tmp_path, "good", partial(write, "x"))
    bug = named(tmp_path, "bug", stumble)
    failures = run_stages([top, good, bug], SILENT, workers=1)
    assert good.is_complete
    assert failures.keys() == {bad.key, above.key, top.key, bug.key}
    assert failures[top.key].message == "above failed: bad failed: no luck"
    assert failures[top.key].hint == "try again"
    assert failures[bug.key].message == "ZeroDivisionError: a bug"


def test_complete_stages_do_not_run_again(tmp_path: Path) -> None:
    first = named(tmp_path, "first", partial(write, "x"))
    assert run_stages([first], SILENT, workers=1) == {}
    again = named(tmp_path, "first", fail)
    assert again.path == first.path
    assert run_stages([again, named(tmp_path, "second", partial(write, "y"), again)], SILENT, workers=1) == {}


def test_a_worker_that_dies_takes_no_other_stage_with_it(tmp_path: Path, importable: None) -> None:
    killer = named(tmp_path, "killer", die)
    others = [named(tmp_path, f"other{i}", partial(write, str(i))) for i in range(3)]
    failures = run_stages([killer, *others], SILENT, workers=2)
    assert failures.keys() == {killer.key}, failures
    assert "died" in failures[killer.key].message
    assert all(other.is_complete for other in others)


def test_two_of_two_workers_may_die(tmp_path: Path, importable: None) -> None:
    killers = [named(tmp_path, f"killer{i}", die) for i in range(2)]
    after = named(tmp_path, "after", partial(write, "x"), killers[0])
    failures = run_stages([*killers, after], SILENT, workers=2)
    assert failures.keys() == {killers[0].key, killers[1].key, after.key}


def test_workers_have_one_thread_each_and_their_progress_is_drawn(tmp_path: Path, importable: None) -> None:
    progress = Recorded()
    stages = [named(tmp_path, f"report{i}", report) for i in range(2)]
    assert run_stages(stages, progress, workers=2) == {}
    assert {(stage.path / "word").read_text() for stage in stages} == {"1"}
    assert progress.events.count(("counting", 3, "x")) == progress.events.count("closed") == 2
    assert progress.events.count("counted") == 2
    advanced = [event[0] for event in progress.events if isinstance(event, tuple) and isinstance(event[0], float)]
    assert sum(advanced) == 6


def test_a_stop_in_a_stage_stops_the_whole(tmp_path: Path, importable: None) -> None:
    with pytest.raises(Preempted):
        run_stages([named(tmp_path, "stopped", preempted)], SILENT, workers=1)
    started = time.monotonic()
    with pytest.raises(Preempted):
        run_stages([named(tmp_path, "stopped", preempted), named(tmp_path, "endless", endless)], SILENT, workers=2)
    assert time.monotonic() - started < 60, "the stage beside it was asked to stop"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_stops_stages_also_where_a_worker_is_idle(
    tmp_path: Path, importable: None, number: signal.Signals
) -> None:
    """A terminal and Slurm send it to every process."""
    stages = [named(tmp_path, "short", partial(write, "x")), named(tmp_path, "long", partial(signal_all, number))]
    with pytest.raises(Interrupted if number == signal.SIGINT else Preempted, match="stopped by"):
        run_stages(stages, SILENT, workers=2)
    assert stages[0].is_complete and not stages[1].is_complete
    assert multiprocessing.active_children() == []


def test_a_death_leaves_the_stage_beside_it_alone_and_is_tried_once_more(tmp_path: Path, importable: None) -> None:
    once = named(tmp_path, "once", die_once)
    beside = named(tmp_path, "beside", slow)
    assert run_stages([once, beside], SILENT, workers=2) == {}
    assert (beside.path / "starts").read_text() == "1"


def finish(crew: Workers, stages: Sequence[Stage]) -> None:
    crew.start(stages)
    while crew.busy:
        assert crew.wait() == {}


def test_a_worker_that_was_killed_while_idle_takes_no_stage_with_it(tmp_path: Path, importable: None) -> None:
    first = [named(tmp_path, f"first{i}", partial(write, "x")) for i in range(2)]
    with Workers(SILENT, 2) as crew:
        finish(crew, first)
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        finish(crew, [named(tmp_path, f"second{i}", partial(write, "x")) for i in range(2)])


def test_while_there_are_suspects_nothing_else_starts(tmp_path: Path) -> None:
    crew = Workers(SILENT, 2)
    crew._suspects.append(named(tmp_path, "one", fail))
    assert crew.busy, "it waits to run alone"
    assert crew.start([named(tmp_path, "three", fail)]) == []
