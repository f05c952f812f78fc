"""A capture, `generate`, a guard and a live teacher run a model in one precision; evaluation stays in float32."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import (
    CacheSettings,
    DistillSettings,
    DTypeName,
    GenerateSettings,
    GuardSettings,
    SourceSettings,
    TargetSettings,
)
from thack.data.sequence import TokenSequence
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.references import References
from thack.generation import respond
from thack.generation.run import run_generate
from thack.generation.sources import Online
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.reading import read_json
from thack.runtime import device
from thack.runtime.process_group import ALONE
from thack.runtime.progress import SILENT, Task
from thack.schema.generation import ResponsesManifest
from thack.schema.metrics import Role
from thack.schema.run import Manifest
from thack.targets import DenseTarget
from thack.training import run_distill
from thack.training.data import LiveTargets
from thack.training.distill import prepare_distill
from thack.training.guarded_data import GuardedData
from thack.training.run_directory import RunDirectory

from .small import model, rows
from .world import DATA, build_world, distill_settings


class Notes:
    """A progress that keeps its notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, name: str, total: float | None, unit: str = "") -> AbstractContextManager[Task]:
        return SILENT.task(name, total, unit)

    def note(self, message: str) -> None:
        self.lines.append(message)


BOTH: list[DTypeName] = ["float32", "bfloat16"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


def written(world: Path, out: Path, dtype: DTypeName) -> dict[str, list[int]]:
    data = replace(DATA, path=str(world / "prompts.jsonl"))
    run_generate(GenerateSettings(out=out, model=str(world / "teacher"), data=data, dtype=dtype, device="cpu"))
    assert json.loads((out / "manifest.json").read_text())["dtype"] == dtype
    found = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    return {row["id"]: row["response_ids"] for row in found}


def by_prompt(sequences: list[TokenSequence]) -> dict[str, list[int]]:
    return {s.prompt_id: s.response_ids.tolist() for s in sequences}


def captured(world: Path, out: Path, dtype: DTypeName) -> Cache:
    data = replace(DATA, path=str(world / "prompts.jsonl"))
    return Cache.open(
        capture(
            CacheSettings(
                out=out, teacher=str(world / "teacher"), data=data, kind="dense", generate=True, dtype=dtype,
                device="cpu",
            )
        )
    )  # fmt: skip


def live(world: Path, out: Path, dtype: DTypeName, **changes: object) -> DistillSettings:
    data = replace(DATA, path=str(world / "prompts.jsonl"))
    settings = distill_settings(world, out, cache="", data=data, dtype=dtype)
    return replace(settings, **changes)  # type: ignore[arg-type]


def training_data(settings: DistillSettings) -> LiveTargets | GuardedData:
    run = RunDirectory(settings, "distill", ALONE)
    run.claim()
    trainer, _ = prepare_distill(settings, run, torch.device("cpu"), SILENT)
    run.close()
    assert isinstance(trainer.data, LiveTargets | GuardedData)
    return trainer.data


@pytest.mark.parametrize("dtype", BOTH)
def test_a_capture_a_guard_and_generate_write_the_same_responses(world: Path, tmp_path: Path, dtype: DTypeName) -> None:
    ours = written(world, tmp_path / "responses", dtype)
    cache = captured(world, tmp_path / "cache", dtype)
    assert by_prompt([cache.sequences(i) for i in range(len(cache))]) == ours
    guard = training_data(live(world, tmp_path / "run", dtype, guard=GuardSettings(on=True)))
    assert isinstance(guard, GuardedData)
    prompts = guard.sequences(np.arange(10), 0)
    assert by_prompt(respond(guard._teacher, prompts, guard._request)) == ours
    online = training_data(live(world, tmp_path / "online", dtype, source=SourceSettings(kind="online-teacher")))
    assert isinstance(online, LiveTargets)
    source = online._source
    assert isinstance(source, Online)
    assert by_prompt(respond(source._writer, prompts, source._request)) == ours


def test_bfloat16_shows_in_what_is_written(world: Path, tmp_path: Path) -> None:
    """Or the test above would say nothing."""
    ours = [written(world, tmp_path / dtype, dtype) for dtype in BOTH]
    assert ours[0] != ours[1]


def target(data: LiveTargets | GuardedData, sequences: list[TokenSequence]) -> torch.Tensor:
    found = data.target(sequences, Batch.of(sequences), 0)
    if not isinstance(found, DenseTarget):  # before the teacher's head
        found = found.to_dense()  # type: ignore[union-attr]
    return found.log_probs_NV


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", BOTH)
def test_live_targets_are_those_of_a_cache(world: Path, tmp_path: Path, dtype: DTypeName, fused: bool) -> None:
    """Whatever the format of the products before the head, its logits are in float32 on both sides."""
    cache = captured(world, tmp_path / "cache", dtype)
    sequences, cached = cache.targets(range(len(cache)))
    assert isinstance(cached, DenseTarget)
    settings = live(world, tmp_path / "run", dtype, target=TargetSettings())
    settings = replace(settings, loss=replace(settings.loss, fused=fused))
    found = target(training_data(settings), list(sequences))
    torch.testing.assert_close(found, cached.log_probs_NV, rtol=1e-5, atol=1e-5)


def test_each_model_has_a_precision_of_its_own(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The live teacher's does not depend on the student's width; the run prints and records all of them."""
    monkeypatch.setattr(device, "fast_bf16_flag", lambda: "amx_bf16")
    monkeypatch.setattr(device, "bf16_speedup", lambda: 10.0)
    wide = tmp_path / "wide"
    model(seed=2, width=128).save(wide)
    settings = live(world, tmp_path / "run", "auto", teacher=str(wide), oracle="", eval_data="", steps=1)
    notes = Notes()
    run = run_distill(settings, notes).path
    facts = Manifest.parse(read_json(run / "manifest.json")).facts
    assert facts.precision["student"].startswith("float32 (bfloat16 gains nothing at width 16)")
    assert facts.precision["teacher"].startswith("bfloat16 ")
    line = next(line for line in notes.lines if line.startswith("precision: "))
    assert all(f"{role} {text}" in line for role, text in facts.precision.items())


def test_every_command_names_a_directory_by_one_fingerprint(world: Path, tmp_path: Path) -> None:
    """`generate` runs in bfloat16 with rounded weights: it is the same teacher."""
    written(world, tmp_path / "responses", "bfloat16")
    cache = captured(world, tmp_path / "cache", "bfloat16")
    run = run_distill(live(world, tmp_path / "run", "bfloat16", steps=1)).path
    prompts = EvalSet.from_jsonl(world / "prompts.jsonl").with_responses(
        References.of(teacher=world / "teacher"), max_new_tokens=7
    )
    expected = load_model(world / "teacher").fingerprint()
    assert ResponsesManifest.parse(read_json(tmp_path / "responses" / "manifest.json")).facts.model == expected
    assert cache.meta.teacher == expected
    assert Manifest.parse(read_json(run / "manifest.json")).facts.models["teacher"] == expected
    assert prompts.origin.writers[Role.TEACHER] == expected


def test_a_run_names_the_teachers_precision_and_evaluates_in_float32(world: Path, tmp_path: Path) -> None:
    evaluations = {}
    for dtype in BOTH:
        run = run_distill(live(world, tmp_path / dtype, dtype, steps=1)).path
        facts = Manifest.parse(read_json(run / "manifest.json")).facts
        assert all(facts.precision[role].startswith(dtype) for role in ("student", "teacher"))
        evaluations[dtype] = next(row for row in rows(run) if row["event"] == "evaluation")
    metrics = [{k: v for k, v in row.items() if not k.startswith("train_kl")} for row in evaluations.values()]
    assert metrics[0] == metrics[1]
