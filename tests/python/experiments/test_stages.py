"""Stages are named by content, made once, and survive what happens beside them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from thack.config import DistillSettings, LossSettings
from thack.errors import MismatchError, ThackError, UsageError
from thack.experiments.lock import held
from thack.experiments.plan import plan
from thack.experiments.stages import Stage, chosen, plan_stage, walk
from thack.experiments.workers import make_all
from thack.runtime.progress import SILENT, Progress

from .small import settings, write_sums


def write(word: str, path: Path, progress: Progress) -> None:
    path.mkdir(parents=True, exist_ok=True)  # like every work: it may have been killed here before
    (path / "word").write_text(word)


def fail(path: Path, progress: Progress) -> None:
    raise ThackError("no luck", hint="try again")


def stumble(path: Path, progress: Progress) -> None:
    raise ZeroDivisionError("a bug")


def die(path: Path, progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def named(root: Path, name: str, work: object, *needs: Stage) -> Stage:
    return plan_stage(root, name, work, needs=needs)  # type: ignore[arg-type]


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    stage = plan_stage(tmp_path, "a", partial(write, "x"), inputs={"n": 1})
    assert make_all([stage, stage], SILENT) == {}
    assert stage.record().cpu_seconds >= 0
    before = (stage.path / "stage.json").stat().st_mtime_ns
    assert make_all([stage], SILENT) == {}
    assert (stage.path / "stage.json").stat().st_mtime_ns == before


def test_the_name_follows_content_and_upstream(tmp_path: Path) -> None:
    a = plan_stage(tmp_path, "a", fail, inputs={"n": 1})
    assert a.path == plan_stage(tmp_path, "a", stumble, inputs={"n": 1}).path
    assert a.path != plan_stage(tmp_path, "a", fail, inputs={"n": 2}).path
    other = plan_stage(tmp_path, "a", fail, inputs={"n": 2})
    assert named(tmp_path, "b", fail, a).path != named(tmp_path, "b", fail, other).path


def test_places_and_defaults_do_not_count() -> None:
    settings = DistillSettings(out=Path("x"), student="y", cache="z", loss=LossSettings(divergence="jsd"), epochs=1)
    assert chosen(settings) == {"loss": {"divergence": "jsd"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    rate: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    rate: float = 2.0
    new: int = 0


def test_a_default_that_has_changed_is_noticed(tmp_path: Path) -> None:
    made = plan_stage(tmp_path, "a", partial(write, "x"), settings=Before())
    make_all([made], SILENT)
    made.check()
    later = plan_stage(tmp_path, "a", partial(write, "x"), settings=After())
    assert later.path == made.path
    with pytest.raises(MismatchError, match="other defaults"):
        later.check()
    plan_stage(tmp_path, "a", partial(write, "x"), settings=replace(After(), rate=1.0))  # another name: fine


def test_a_failure_takes_with_it_what_stands_on_it_and_nothing_else(tmp_path: Path) -> None:
    bad = named(tmp_path, "bad", fail)
    above = named(tmp_path, "above", partial(write, "x"), bad)
    top = named(tmp_path, "top", partial(write, "x"), above)
    good = named(tmp_path, "good", partial(write, "x"))
    bug = named(tmp_path, "bug", stumble)
    failures = make_all([top, good, bug], SILENT, workers=1)
    assert good.made
    assert failures.keys() == {bad.key, above.key, top.key, bug.key}
    assert "no luck" in failures[top.key].message
    assert "ZeroDivisionError" in failures[bug.key].message


def test_a_worker_that_dies_takes_nobody_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(
        str(Path(__file__).parents[__name__.count(".")])
    )  # workers import this file by its name
    killer = named(tmp_path, "killer", die)
    others = [named(tmp_path, f"other{i}", partial(write, str(i))) for i in range(3)]
    failures = make_all([killer, *others], SILENT, workers=2)
    assert failures.keys() == {killer.key}, failures
    assert "died" in failures[killer.key].message
    assert all(other.made for other in others)


def test_walk_goes_up_the_street(tmp_path: Path) -> None:
    a = named(tmp_path, "a", fail)
    b, c = named(tmp_path, "b", fail, a), named(tmp_path, "c", fail, a)
    assert [stage.name for stage in walk([named(tmp_path, "d", fail, b, c), c])] == ["a", "b", "c", "d"]


def test_two_that_want_the_same_directory_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with held(tmp_path / "stage"):
            inside.append(number)
            time.sleep(0.05)
            inside.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside in ([0, 0, 1, 1], [1, 1, 0, 0])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("holder", "age_s"),
    [
        ({"host": "elsewhere", "pid": 1, "boot": "other"}, 1000.0),  # another node, silent for long
        ("", 1000.0),  # died before it wrote its name
    ],
)
def test_an_abandoned_lock_is_taken_over(tmp_path: Path, holder: object, age_s: float) -> None:
    lock = tmp_path / ".stage.lock"
    lock.write_text(json.dumps(holder) if holder else "")
    os.utime(lock, (time.time() - age_s, time.time() - age_s))
    with held(tmp_path / "stage"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_a_holder_that_lost_its_lock_leaves_the_next_ones_alone(tmp_path: Path) -> None:
    lock = tmp_path / ".thing.lock"
    with held(tmp_path / "thing"):
        lock.unlink()
        lock.write_text("the next holder's")
    assert lock.read_text() == "the next holder's"


def test_a_holder_of_this_machine_that_died_is_noticed_at_once(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with held(tmp_path / "stage"):
            os._exit(0)  # without giving it back
    os.waitpid(pid, 0)
    assert (tmp_path / ".stage.lock").exists()
    started = time.monotonic()
    with held(tmp_path / "stage"):
        pass
    assert time.monotonic() - started < 30


def test_one_dtype_is_that_of_every_stage_with_a_model_and_of_the_run(tmp_path: Path) -> None:
    """What `auto` finds depends on how fast a machine is: two that compare numbers name one."""
    sums = write_sums(tmp_path / "data")
    given = [plan(settings(sums, *sets), tmp_path) for sets in ((), ("dtype=float32",))]
    auto, named = (list(walk(planned.run for planned in cells)) for cells in given)
    with_model = [stage for stage in named if "dtype" in stage.settings]
    assert {stage.name.split("-")[0] for stage in with_model} >= {"oracle", "teacher", "student", "cache", "seed0"}
    assert {stage.settings["dtype"] for stage in with_model} == {"float32"}
    assert {stage.settings["dtype"] for stage in auto if "dtype" in stage.settings} == {"auto"}
    with pytest.raises(UsageError, match="decides"):
        plan(settings(sums, "distill.dtype=float32"), tmp_path)


def test_a_student_of_its_teachers_size_does_not_begin_as_its_teacher(tmp_path: Path) -> None:
    given = settings(write_sums(tmp_path / "data"), 'figures=["axes"]', 'axes.student=["8", "16"]')
    stages = list(walk(planned.run for planned in plan(given, tmp_path)))
    seeds = {
        (s.name, s.settings["architecture.hidden_size"]): s.settings["seed"]
        for s in stages
        if "validation_fraction" in s.settings
    }
    assert seeds["teacher", 16] == seeds["student", 8] != seeds["student", 16]
