"""Caches through a student's frozen head, from capture to a resumed run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("peft")

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.cache.format.inspection import inspect
from thack.cache.format.plan import read_plan
from thack.cache.sizing.estimation import estimate
from thack.cache.sizing.probing import probe
from thack.checks import check_capture, check_combination
from thack.checks.frozen_head import check_frozen_head
from thack.checks.inputs import check_caches
from thack.config import (
    CacheSettings,
    CheckpointSettings,
    DistillSettings,
    LoraSettings,
    LossSettings,
    ServerSettings,
    TargetSettings,
)
from thack.errors import MismatchError, Preempted, UndefinedLoss, UsageError
from thack.models.load import load_model
from thack.runtime.progress import SILENT
from thack.schema.targets import TargetKind
from thack.targets.types import DenseTarget, FrozenHeadTarget
from thack.training import run_distill

from .small import model, rows
from .world import DATA, build_world, distill_settings, signal_at

# peft asks transformers under a name that is about to go.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def capture_settings(world: Path, out: Path, **changes: Any) -> CacheSettings:
    given = CacheSettings(
        out=out, teacher=str(world / "teacher"), student=str(world / "student"), kind="projected", generate=True,
        data=replace(DATA, path=str(world / "prompts.jsonl")), device="cpu", shard_tokens=30,
    )  # fmt: skip
    return replace(given, **changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_world(tmp_path_factory.mktemp("frozen"))
    capture(capture_settings(root, root / "projected"), SILENT)
    capture(capture_settings(root, root / "float8", projected="float8"), SILENT)
    return root


def settings(world: Path, out: Path, cache: str, **changes: Any) -> DistillSettings:
    given = distill_settings(
        world, out, "offline", cache=str(world / cache), lora=LoraSettings(rank=4), oracle="", eval_data="", teacher="",
        loss=LossSettings(fused=True), epochs=1,
    )  # fmt: skip
    return replace(given, **changes)


def losses(given: DistillSettings) -> list[float]:
    return [row["loss"] for row in rows(run_distill(given).path) if row["event"] == "train"]


def test_a_record_is_the_dense_one_through_the_head(world: Path) -> None:
    """Same responses, same distributions: the dense cache of the world has the same seed."""
    found, dense = Cache.open(world / "projected"), Cache.open(world / "cache")
    _, target = found.targets(range(len(found)))
    _, whole = dense.targets(range(len(dense)))
    assert isinstance(target, FrozenHeadTarget) and isinstance(whole, DenseTarget)
    weight_VH = load_model(world / "student").head().weight.detach()
    torch.testing.assert_close(target.mean_NH, whole.log_probs_NV.exp() @ weight_VH, rtol=1e-3, atol=2e-4)
    entropy_N = -(whole.log_probs_NV.exp() * whole.log_probs_NV).sum(1)
    torch.testing.assert_close(target.entropy_N, entropy_N, rtol=1e-5, atol=1e-5)
    assert found.layout.bytes_per_token == 8 + 2 * weight_VH.shape[1] + 2
    assert target.realised_logprob_N is not None and whole.realised_logprob_N is not None
    torch.testing.assert_close(target.realised_logprob_N, whole.realised_logprob_N)


def test_a_run_is_that_of_the_dense_cache(world: Path, tmp_path: Path) -> None:
    dense = losses(settings(world, tmp_path / "dense", "cache", steps=5))
    assert losses(settings(world, tmp_path / "16", "projected", steps=5)) == pytest.approx(dense, abs=1e-3)
    assert losses(settings(world, tmp_path / "8", "float8", steps=5)) == pytest.approx(dense, abs=0.05)


def test_a_live_teacher_gives_the_same_run(world: Path, tmp_path: Path) -> None:
    live: dict[str, Any] = {"teacher": str(world / "teacher"), "data": replace(DATA, path=str(world / "prompts.jsonl"))}
    kinds: tuple[TargetKind, ...] = ("dense", "projected")
    given = [
        replace(settings(world, tmp_path / kind, "cache", steps=3), cache="", target=TargetSettings(kind=kind), **live)
        for kind in kinds
    ]
    assert losses(given[1]) == pytest.approx(losses(given[0]), abs=1e-4)


def test_pitfall_28_stopped_and_resumed(world: Path, tmp_path: Path) -> None:
    every = CheckpointSettings(every_steps=1, keep=99)
    whole = run_distill(settings(world, tmp_path / "whole", "projected", checkpoint=every))
    cut = settings(world, tmp_path / "cut", "projected", checkpoint=every)
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 3)
        with pytest.raises(Preempted):
            run_distill(cut)
    assert rows(run_distill(cut).path) == rows(whole.path)
    weights = "adapter_model.safetensors"
    assert (cut.out / "model" / weights).read_bytes() == (whole.model / weights).read_bytes()


def test_a_capture_resumes_and_another_student_is_another_cache(world: Path) -> None:
    plan = read_plan(world / "projected")
    assert plan.fingerprints.head and plan.layout.spec.k == 16
    capture(capture_settings(world, world / "projected"), SILENT)
    assert read_plan(world / "projected") == plan
    with pytest.raises(MismatchError, match="begun as another cache"):
        capture(capture_settings(world, world / "projected", student=str(world / "oracle")), SILENT)


def test_another_head_is_refused(world: Path, tmp_path: Path) -> None:
    other = model(seed=9)
    other.save(tmp_path / "other")
    with pytest.raises(MismatchError, match="of another head than the student's"):
        run_distill(settings(world, tmp_path / "run", "projected", student=str(tmp_path / "other")))


def test_where_the_head_trains_it_is_refused_before_anything_is_loaded(world: Path, tmp_path: Path) -> None:
    spec = check_caches([world / "projected"], LossSettings(), mixed=False)
    for changes, message in (
        ({"lora": LoraSettings()}, "lora.rank = 0 trains all weights"),
        ({"loss": LossSettings(fused=False)}, "loss.fused = false"),
    ):
        with pytest.raises(UsageError, match=message):
            check_frozen_head(settings(world, tmp_path / "a", "projected", **changes), spec)
    for loss in (LossSettings(divergence="reverse_kl"), LossSettings(temperature=2.0)):
        with pytest.raises(UndefinedLoss, match="not defined on projected targets"):
            check_caches([world / "projected"], loss, mixed=False)
    live = settings(world, tmp_path / "b", "cache", teacher="t", lora=LoraSettings())
    with pytest.raises(UsageError, match=r"lora\.rank = 0 trains all weights"):
        data = replace(DATA, path=str(world / "prompts.jsonl"))
        check_combination(replace(live, cache="", target=TargetSettings(kind="projected"), data=data))


def test_a_capture_without_a_student_or_from_a_server_is_refused(world: Path, tmp_path: Path) -> None:
    given = capture_settings(world, tmp_path / "cache")
    with pytest.raises(UsageError, match="no student is given"):
        check_capture(replace(given, student=""))
    server = ServerSettings(url="http://localhost:1", model="m", tokenizer=given.teacher)
    with pytest.raises(UsageError, match="a server gives the most likely ids"):
        check_capture(replace(given, teacher="", server=server))


def test_inspect_probe_and_dry_run_know_it(world: Path, tmp_path: Path) -> None:
    found = inspect(world / "projected")
    assert found.kind == "projected" and "exact over the whole vocabulary" in found.losses["forward_kl"]
    assert "refused" in found.losses["reverse_kl"] and "11 bits" in found.precision
    given = capture_settings(world, tmp_path / "none", epochs=8)
    assert estimate(given, SILENT).bytes_per_token == 42
    probed = probe(given)
    errors = {(row.kind, row.ids): row.gradient_error for row in probed.rows}
    assert probed.head == "student" and errors["dense", 264] == pytest.approx(0, abs=1e-6)
    assert 0 < errors["projected", 16] < 1e-3 * probed.hard_gradient_error
    assert errors["top-k", 4] > errors["top-k", 16] > errors["top-k", 64] > errors["projected", 16]
    assert errors["sampled", 4] > errors["sampled", 64]
    assert (probed.recommended.kind, probed.recommended.ids) == ("projected", 16), "42 bytes, and as good as 1058"
    plain = probe(replace(given, student="", kind="top-k"))
    assert plain.head == "teacher" and plain.hard_gradient_error > 0 and plain.recommended.kind == "dense"
