"""Stages side by side: what fails takes its downstream with it, and nothing else; who dies is found out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from thack.errors import Preempted, ThackError
from thack.experiments.stages import Stage
from thack.experiments.workers import Workers, run_stages
from thack.runtime.progress import SILENT

from .jobs import IMPORT_PATH, die, fail, named, preempted, report, slow, stumble, write


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
    with pytest.raises(Preempted):
        run_stages([named(tmp_path, "stopped", preempted), named(tmp_path, "slow", slow)], SILENT, workers=2)


def test_a_failure_beside_a_death_is_not_lost(tmp_path: Path) -> None:
    """Both end within one wait: the failure counts, and the one that died alone is the cause."""
    workers = Workers(SILENT, 2)
    bad, dead = (
        _in_flight(workers, named(tmp_path, name, fail), error)
        for name, error in (
            ("bad", ThackError("no luck")),
            ("dead", BrokenProcessPool("gone")),
        )
    )
    assert workers.wait().keys() == {bad.key, dead.key}
    assert not workers.busy


def test_several_that_may_have_died_become_suspects(tmp_path: Path) -> None:
    workers = Workers(SILENT, 2)
    for name in ("one", "two"):
        _in_flight(workers, named(tmp_path, name, fail), BrokenProcessPool("gone"))
    assert workers.wait() == {}
    assert workers.busy, "they wait to run alone"
    assert workers.start([named(tmp_path, "three", fail)]) == [], "nothing else starts in the meantime"


def _in_flight(workers: Workers, stage: Stage, error: Exception) -> Stage:
    future: Future[None] = Future()
    future.set_exception(error)
    workers._running[future] = stage
    return stage
