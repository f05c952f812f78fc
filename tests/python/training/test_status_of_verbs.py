"""Every verb that writes a directory leaves a true STATUS.json, called from Python as from the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from thack.cache.capture.job import capture
from thack.config import CacheSettings, EvaluateSettings, EvaluationSettings, GenerateSettings
from thack.errors import ThackError
from thack.evaluation import run_evaluate
from thack.generation.run import run_generate
from thack.runtime.status import read_status

from .world import DATA, build_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


def generate(world: Path, out: Path) -> object:
    data = replace(DATA, path=str(world / "prompts.jsonl"))
    return run_generate(GenerateSettings(out=out, model=str(world / "teacher"), data=data, device="cpu"))


def cache(world: Path, out: Path) -> object:
    data = replace(DATA, path=str(world / "prompts.jsonl"))
    return capture(CacheSettings(out=out, teacher=str(world / "teacher"), data=data, device="cpu"))


VERBS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "generate": (generate, "thack.generation.run.respond"),
    "cache-logits": (cache, "thack.cache.capture.scorer.select"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_unexpected_exception_is_recorded_and_so_is_the_end(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def broken(*_: object, **__: object) -> object:
        status = read_status(tmp_path)
        assert status is not None and status.state == "running"
        raise KeyError("a bug")

    run, inside = VERBS[verb]
    with monkeypatch.context() as patch:
        patch.setattr(inside, broken)
        with pytest.raises(KeyError):
            run(world, tmp_path)
    status = read_status(tmp_path)
    assert status is not None and (status.state, status.exit_code) == ("failed", 1)
    assert status.reason == "KeyError: 'a bug'"
    run(world, tmp_path)
    status = read_status(tmp_path)
    assert status is not None and (status.state, status.exit_code, status.reason) == ("finished", 0, "")


def test_an_evaluation_beside_a_run_leaves_its_status_alone(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """evaluation.json is one file, complete or absent; out of memory is explained as everywhere."""

    def hungry(*_: object, **__: object) -> object:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB")

    settings = EvaluateSettings(
        out=tmp_path / "evaluation.json",
        student=str(world / "student"),
        teacher=str(world / "teacher"),
        eval_data=str(world / "eval_set"),
        evaluation=EvaluationSettings(bootstrap=20),
        device="cpu",
    )
    with monkeypatch.context() as patch:
        patch.setattr("thack.evaluation.run.Evaluator", hungry)
        with pytest.raises(ThackError, match="out of memory"):
            run_evaluate(settings)
    assert not list(tmp_path.iterdir())
    run_evaluate(settings)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
