"""Stages are named by content, and run once."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from thack.config import DistillSettings, EvaluationSettings, LossSettings
from thack.errors import DataError, Interrupted, MismatchError, Preempted, ThackError, UsageError
from thack.experiments.costs import Cost
from thack.experiments.plan import plan
from thack.experiments.stages import chosen, plan_stage, with_upstream
from thack.experiments.workers import run_stages
from thack.runtime.progress import SILENT, Progress

from .jobs import fail, named, stumble, write
from .small import settings, write_sums


def test_a_stage_runs_once(tmp_path: Path) -> None:
    stage = plan_stage(tmp_path, "a", partial(write, "x"), inputs={"n": 1})
    assert run_stages([stage, stage], SILENT) == {}
    assert stage.record().cpu_seconds >= 0
    before = (stage.path / "stage.json").stat().st_mtime_ns
    assert run_stages([stage], SILENT) == {}
    assert (stage.path / "stage.json").stat().st_mtime_ns == before


def test_the_name_follows_content_and_upstream(tmp_path: Path) -> None:
    a = plan_stage(tmp_path, "a", fail, inputs={"n": 1})
    assert a.path == plan_stage(tmp_path, "a", stumble, inputs={"n": 1}).path
    assert a.path != plan_stage(tmp_path, "a", fail, inputs={"n": 2}).path
    other = plan_stage(tmp_path, "a", fail, inputs={"n": 2})
    assert named(tmp_path, "b", fail, a).path != named(tmp_path, "b", fail, other).path


def test_names_do_not_move(tmp_path: Path) -> None:
    """Another key here means that every grid on disk would be computed again."""
    full = EvaluationSettings(max_share=1.0)  # as every grid has it, and as all runs were evaluated before
    settings = DistillSettings(out=Path("x"), loss=LossSettings(divergence="jsd"), epochs=7, evaluation=full)
    first = plan_stage(tmp_path, "oracle", fail, inputs={"seed": 3, "sizes": {"b": 1, "a": 2}})
    second = plan_stage(tmp_path, "run", fail, needs=[first], settings=settings)
    assert (first.path.name, second.path.name) == ("oracle-de73bb5976", "run-e4f4ca19f4")


def test_the_record_has_all_settings_and_what_it_took(tmp_path: Path) -> None:
    stage = plan_stage(tmp_path, "a", partial(write, "x"), settings=DistillSettings(epochs=7), cost=Cost(3, 5))
    with pytest.raises(DataError):
        stage.record()
    run_stages([stage], SILENT, workers=1)
    record = stage.record()
    assert (record.name, record.key, record.operations) == ("a", stage.key, 5)
    assert record.settings["epochs"] == 7 and record.settings["loss.divergence"] == "forward_kl"
    chosen = {"epochs": 7, "evaluation": {"max_share": 0.25}}  # a grid has 1.0, which is as before
    assert "student" not in record.settings and record.inputs == {"upstream": [], "settings": chosen}
    assert record.seconds >= 0 and record.cpu_seconds >= 0


def test_an_interrupted_stage_counts_all_its_starts(tmp_path: Path) -> None:
    """A start that spends 0.2 seconds of the processor ends by each kind of error; the last one completes it."""
    errors: list[BaseException] = [Preempted("asked to stop"), ThackError("no luck"), KeyboardInterrupt()]

    def work(path: Path, progress: Progress) -> None:
        path.mkdir()  # as of a work that wants it to be absent
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        if errors:
            path.rmdir()
            raise errors.pop()

    stage = plan_stage(tmp_path, "a", work, cost=Cost(3, 5))
    for kind in (Interrupted, ThackError, Preempted):
        with pytest.raises(kind):
            stage.run(SILENT)
    assert not stage.is_complete and [path.name for path in tmp_path.iterdir()] == [f".{stage.path.name}.spent"]
    stage.run(SILENT)
    record = stage.record()
    assert record.cpu_seconds >= 0.8 and record.seconds >= 0.8 * 0.99
    assert [path.name for path in tmp_path.iterdir()] == [stage.path.name]


def test_places_and_defaults_do_not_count() -> None:
    settings = DistillSettings(out=Path("x"), student="y", cache="z", loss=LossSettings(divergence="jsd"), epochs=1)
    assert chosen(settings) == {"loss": {"divergence": "jsd"}, "evaluation": {"max_share": 0.25}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    rate: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    rate: float = 2.0
    new: int = 0


def test_a_default_that_has_changed_is_noticed(tmp_path: Path) -> None:
    before = plan_stage(tmp_path, "a", partial(write, "x"), settings=Before())
    run_stages([before], SILENT)
    before.check()
    later = plan_stage(tmp_path, "a", partial(write, "x"), settings=After())
    assert later.path == before.path
    with pytest.raises(MismatchError, match="other defaults"):
        later.check()
    plan_stage(tmp_path, "a", partial(write, "x"), settings=replace(After(), rate=1.0))  # another name: fine


def test_upstream_stages_come_first_and_once(tmp_path: Path) -> None:
    a = named(tmp_path, "a", fail)
    b, c = named(tmp_path, "b", fail, a), named(tmp_path, "c", fail, a)
    assert [stage.name for stage in with_upstream([named(tmp_path, "d", fail, b, c), c])] == ["a", "b", "c", "d"]


def test_one_dtype_is_that_of_every_stage_with_a_model_and_of_the_run(tmp_path: Path) -> None:
    """What `auto` finds depends on how fast a machine is: two that compare numbers name one."""
    sums = write_sums(tmp_path / "data")
    given = [plan(settings(sums, *sets), tmp_path) for sets in ((), ("dtype=float32",))]
    auto, named = (list(with_upstream(planned.run for planned in cells)) for cells in given)
    with_model = [stage for stage in named if "dtype" in stage.settings]
    assert {stage.name.split("-")[0] for stage in with_model} >= {"oracle", "teacher", "student", "cache", "seed0"}
    assert {stage.settings["dtype"] for stage in with_model} == {"float32"}
    assert {stage.settings["dtype"] for stage in auto if "dtype" in stage.settings} == {"auto"}
    with pytest.raises(UsageError, match="decides"):
        plan(settings(sums, "distill.dtype=float32"), tmp_path)


def test_a_student_of_its_teachers_size_does_not_begin_as_its_teacher(tmp_path: Path) -> None:
    given = settings(write_sums(tmp_path / "data"), 'figures=["axes"]', 'axes.student=["8", "16"]')
    stages = list(with_upstream(planned.run for planned in plan(given, tmp_path)))
    seeds = {
        (s.name, s.settings["architecture.hidden_size"]): s.settings["seed"]
        for s in stages
        if "validation_fraction" in s.settings
    }
    assert seeds["teacher", 16] == seeds["student", 8] != seeds["student", 16]
