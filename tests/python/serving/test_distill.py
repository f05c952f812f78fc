"""A run whose teacher is behind a server: the weights of a run from a cache, and no token paid for twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from serving.conftest import Make
from serving.server import World, serving, tiny_model
from thack.cache import Cache, verify
from thack.cache.served.job import capture_served
from thack.config import DistillSettings, EvaluationSettings, ServerSettings, SourceSettings, TargetSettings
from thack.errors import DataError, MismatchError, UsageError
from thack.models.protocol import LanguageModel
from thack.training import run_distill
from thack.training.data import CachedTargets, total_lengths


@pytest.fixture(scope="module")
def student_directory(teacher: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served") / "student"
    tiny_model(teacher.tokenizer, seed=5).save(directory)
    return directory


def run_settings(make: Make, url: str, student: Path, out: Path, **changes: object) -> DistillSettings:
    capture = make(url)
    found = DistillSettings(
        out=out,
        student=str(student),
        server=capture.server,
        data=capture.data,
        target=TargetSettings(kind="top-k", k=capture.top_k),
        evaluation=EvaluationSettings(count=0),
        batch_size=4,
        epochs=2,
        device="cpu",
        dtype="float32",
    )
    return replace(found, **changes)  # type: ignore[arg-type]  # fields of the settings


def test_a_run_equals_one_from_a_cache_and_pays_for_each_response_once(
    make: Make, teacher: LanguageModel, student_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(teacher, "vllm")
    world.shuffles = True
    with serving(world) as url:
        live = run_settings(make, url, student_directory, tmp_path / "live")
        served = run_distill(live)
        assert set(world.scored.values()) == {1} and len(world.scored) == 12
        capture = replace(make(url), shard_tokens=1 << 20)
        cache = capture_served(capture)
    sequences = Cache.open(cache).targets(range(12))[0]
    monkeypatch.setattr(CachedTargets, "lengths", total_lengths(sequences))  # a cache's batches are not by length
    cached = run_distill(
        replace(
            live,
            out=tmp_path / "cached",
            server=ServerSettings(),
            cache=str(cache),
            target=TargetSettings(),
            data=replace(live.data, path=""),
        )
    )
    one, other = (load_file(run.model / "model.safetensors") for run in (served, cached))
    assert all(one[name].equal(other[name]) for name in other)
    written = live.out / "cache"
    assert verify(written, full=True).ok and not list((written / "answers").iterdir())


def test_a_run_that_failed_resumes_without_asking_again(
    make: Make, teacher: LanguageModel, student_directory: Path, tmp_path: Path
) -> None:
    world = World(teacher, "sglang")
    with serving(world) as url:
        live = run_settings(make, url, student_directory, tmp_path / "live")
        live = replace(live, server=replace(live.server, concurrency=1, retries=0))
        world.faults.extend([""] * 16 + [""] * 5 + ["retokenised"] * 3)
        with pytest.raises(DataError):
            run_distill(live)
        paid = [ids for ids, count in world.scored.items() if count == 1]
        assert len(paid) >= 5
        run_distill(live)
        assert [world.scored[ids] for ids in paid] == [1] * len(paid)
    assert verify(live.out / "cache", full=True).ok


def test_a_run_that_resumes_with_another_teacher_is_refused(
    make: Make, teacher: LanguageModel, student_directory: Path, tmp_path: Path
) -> None:
    world = World(teacher, "vllm")
    with serving(world) as url:
        live = run_settings(make, url, student_directory, tmp_path / "live")
        world.faults.extend([""] * 16 + [""] * 5 + ["retokenised"] * 30)
        with pytest.raises(DataError):
            run_distill(live)
        world.faults.clear()
        world.model = tiny_model(teacher.tokenizer, seed=1)
        with pytest.raises(MismatchError, match="another teacher"):
            run_distill(live)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cache": "c"}, "both given"),
        ({"teacher": "t"}, "both given"),
        ({"source": SourceSettings(kind="online-student")}, "does not go with a server"),
        ({"target": TargetSettings()}, "target.kind = dense"),
        ({"target": TargetSettings(kind="sampled")}, "target.kind = sampled"),
    ],
)
def test_what_does_not_go_with_a_server_is_refused_before_it_is_asked(
    changes: dict[str, object], words: str, make: Make, student_directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        run_distill(run_settings(make, "http://127.0.0.1:9", student_directory, tmp_path / "run", **changes))


def test_a_server_that_scores_nothing_is_refused(
    make: Make, teacher: LanguageModel, student_directory: Path, tmp_path: Path
) -> None:
    with serving(World(teacher, "llama.cpp")) as url, pytest.raises(UsageError, match="generates alone"):
        run_distill(run_settings(make, url, student_directory, tmp_path / "run"))
