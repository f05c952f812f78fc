"""A run resumes where its cache and models were moved: content decides, paths are free."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from thack import config
from thack.cache.format import manifest
from thack.cache.format.inspection import inspect
from thack.cache.format.verification import verify
from thack.config import DistillSettings
from thack.errors import MismatchError, Preempted, UsageError
from thack.training import run_distill

from .small import rows
from .world import build_world, distill_settings, signal_at

PLACES = ("student", "teacher", "oracle", "eval_data", "cache")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def stopped(world: Path, tmp_path: Path) -> DistillSettings:
    settings = distill_settings(world, tmp_path / "cut", epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 2)
        with pytest.raises(Preempted):
            run_distill(settings)
    return settings


def elsewhere(settings: DistillSettings, folder: Path) -> DistillSettings:
    """The same, with everything that it reads under another name."""
    changes = {}
    for name in PLACES:
        shutil.copytree(getattr(settings, name), folder / f"{name}-moved")
        changes[name] = str(folder / f"{name}-moved")
    return replace(settings, **changes)  # type: ignore[arg-type]


def test_it_resumes_to_the_same_numbers_and_then_knows_the_new_paths(
    world: Path, stopped: DistillSettings, tmp_path: Path
) -> None:
    whole = run_distill(distill_settings(world, tmp_path / "whole", epochs=1))
    moved = elsewhere(stopped, tmp_path / "new")
    assert rows(run_distill(moved).path) == rows(whole.path)
    assert config.load_settings(DistillSettings, [moved.out / "config.toml"], [], {}) == moved
    with pytest.raises(UsageError, match=r"other settings[\s\S]*cache"):
        run_distill(stopped)  # finished: it reads nothing that could be compared


@pytest.mark.parametrize(
    ("place", "other", "message"),
    [
        ("student", "oracle", "was started with another student"),
        ("teacher", "student", "the cache stores another teacher"),
        ("cache", "cache", "other models or data"),
    ],
)
def test_other_content_under_a_new_path_is_refused(
    world: Path, stopped: DistillSettings, tmp_path: Path, place: str, other: str, message: str
) -> None:
    source = world / other if place != "cache" else build_world(tmp_path / "other", start=3) / "cache"
    with pytest.raises(MismatchError, match=message):
        run_distill(replace(stopped, **{place: str(source)}))  # type: ignore[arg-type]


def test_a_place_that_is_set_in_one_of_them_alone_is_a_change(stopped: DistillSettings) -> None:
    with pytest.raises(UsageError, match=r"other settings[\s\S]*oracle"):
        run_distill(replace(stopped, oracle=""))


def test_a_complete_cache_that_may_not_be_written_needs_no_manifest(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(world / "cache", cache)
    (cache / "manifest.json").unlink()
    monkeypatch.setattr(manifest.os, "access", lambda path, mode: False)  # type: ignore[attr-defined]
    assert inspect(cache).complete
    assert verify(cache, full=True).ok
    assert run_distill(distill_settings(world, tmp_path / "run", cache=str(cache), steps=1)).steps == 1
    assert not (cache / "manifest.json").exists()
