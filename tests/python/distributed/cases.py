"""The runs that one, two and four processes make alike: name → what to run in a world of `build_world`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - once, before the processes are forked
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import (
    ArchitectureSettings,
    CacheSettings,
    CheckpointSettings,
    EvaluationSettings,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    ParallelSettings,
    SftSettings,
    SourceSettings,
)
from thack.errors import Preempted, ThackError
from thack.models.load import load_model
from thack.runtime.progress import SILENT
from thack.runtime.ranks import Rank, current_rank
from thack.schema.metric_rows import GuardRow, MetricsRow
from thack.training import run_distill, run_sft
from thack.training.run_directory import RunDirectory
from training.across_world import across
from training.world import DATA, distill_settings, records

Case = Callable[[Path, Path], None]  # world, out
Train = Callable[[Path, Path, ParallelSettings], None]
DDP, FSDP = ParallelSettings(strategy="ddp"), ParallelSettings(strategy="fsdp")
SHARDED = ParallelSettings(strategy="fsdp", shard_teacher=True)


def offline(world: Path, out: Path, parallel: ParallelSettings, **changes: Any) -> None:
    """10 sequences in batches of 4, 4 and 2, in forwards of one: four ranks do not all have work."""
    settings = distill_settings(
        world, out, batch_size=4, micro_batch_size=1, parallel=parallel, evaluation=EVALUATION, **changes
    )
    run_distill(settings)


def online(
    world: Path, out: Path, parallel: ParallelSettings, kind: str, by: str = "teacher", *, fused: bool = False
) -> None:
    """Written in batches of 3 prompts, which ranks share out; `fused`: both heads by chunks, outside the forward."""
    source = SourceSettings(kind=kind, online_by=by, refresh_steps=2, batch_size=3)  # type: ignore[arg-type]
    settings = distill_settings(
        world, out, kind, source=source, batch_size=4, parallel=parallel, epochs=1, eval_data=""
    )
    run_distill(replace(settings, oracle="", loss=LossSettings(fused=fused)))


def sft(world: Path, out: Path, parallel: ParallelSettings) -> None:
    settings = SftSettings(
        out=out,
        tokenizer_size=264,
        architecture=ArchitectureSettings(hidden_size=16, num_layers=2, num_heads=2, max_positions=48, tie_head=True),
        data=replace(DATA, max_response_tokens=24),
        validation_fraction=0.3,
        epochs=2,
        batch_size=4,
        optimizer=OptimizerSettings(learning_rate=1e-2, schedule="cosine", warmup_steps=2),
        parallel=parallel,
        device="cpu",
    )
    run_sft(settings, records(12))


def lora(world: Path, out: Path, parallel: ParallelSettings) -> None:
    """An adapter on a frozen base: its gradients alone are summed."""
    changes = {
        "lora": LoraSettings(rank=2),
        "epochs": 1,
        "teacher": "",
        "oracle": "",
        "eval_data": "",
        "checkpoint": EVERY,
    }
    run_distill(distill_settings(world, out, batch_size=4, micro_batch_size=1, parallel=parallel, **changes))


def stopped(world: Path, out: Path, parallel: ParallelSettings, resumes: bool = True, run: Train = offline) -> None:
    """The last rank alone gets a signal at step 2; all stop there, and resume."""
    append = RunDirectory.append

    def wrapped(run: RunDirectory, row: MetricsRow | GuardRow) -> None:
        append(run, row)
        rank = current_rank()
        if row.step == 2 and isinstance(row, MetricsRow) and row.event == "train" and rank.rank == rank.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "append", wrapped)
        with pytest.raises(Preempted, match="SIGTERM"):
            run(world, out, parallel)
    if resumes:
        run(world, out, parallel)


def refused(world: Path, out: Path, parallel: ParallelSettings) -> None:
    """A disk that fails for the first rank stops all of them, with its message."""

    def full(*arguments: Any) -> None:
        raise ThackError("cannot write: no space left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thack.training.saver.save_checkpoint", full)
        with pytest.raises(ThackError, match="no space left"):
            offline(world, out, parallel)


def build_second_cache(world: Path) -> None:
    """The oracle's distributions of the same responses as the cache's, which are the teacher's."""
    cache = Cache.open(world / "cache")
    sequences = [cache.sequences(i) for i in range(len(cache))]
    settings = CacheSettings(out=world / "second", kind="dense", device="cpu")
    capture(settings, SILENT, teacher=load_model(world / "oracle"), sequences=sequences)


def several(world: Path, out: Path, parallel: ParallelSettings) -> None:
    """Two teachers' caches, mixed by weights; each is measured at the evaluation."""
    caches = (str(world / "cache"), str(world / "second"))
    offline(world, out, parallel, cache=caches, cache_weights=(0.7, 0.3), check_alignment=False, oracle="", epochs=1)


def other_tokenizer(world: Path, out: Path, parallel: ParallelSettings, kind: str) -> None:
    """A student with another tokenizer than its live teacher's, evaluated in nats per byte."""
    source = SourceSettings(kind=kind, refresh_steps=2, batch_size=3)  # type: ignore[arg-type]
    changes = {"source": source, "eval_data": str(world / "across" / "held_out.jsonl"), "epochs": 1, "seed": 3}
    settings = across(world / "across", out, "live", batch_size=4, micro_batch_size=1, parallel=parallel, **changes)
    run_distill(replace(settings, evaluation=EVALUATION))


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)


def hold(world: Path, out: Path) -> None:
    """A job that is in the middle of its run until another one has been refused."""
    append = RunDirectory.append

    def wrapped(run: RunDirectory, row: MetricsRow | GuardRow) -> None:
        append(run, row)
        if run.writes and row.step == 2:
            out.with_name("held").write_text(str(os.getpid()))
            wait_for(out.with_name("refused"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "append", wrapped)
        offline(world, out, DDP)


def meet(world: Path, out: Path) -> None:
    """Another job into the same directory meanwhile, with little patience: what each of its ranks is told."""
    wait_for(out.with_name("held"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rank, "patience_s", 0.0)
        with pytest.raises(ThackError) as told:
            offline(world, out, DDP)
    rank = current_rank()
    text = "\n".join([told.value.message, *told.value.details])
    out.with_name(f"told-{rank.rank}").write_text(text)
    if rank.is_first:
        out.with_name("refused").touch()


EVALUATION = EvaluationSettings(count=1, bootstrap=20, batch_size=2)
EVERY = CheckpointSettings(every_steps=1, keep=9)

CASES: dict[str, Case] = {
    "offline-ddp": lambda world, out: offline(world, out, DDP, checkpoint=EVERY),
    "offline-fsdp": lambda world, out: offline(world, out, SHARDED),
    "teacher-ddp": lambda world, out: online(world, out, DDP, "online-teacher"),
    "student-fsdp": lambda world, out: online(world, out, FSDP, "online-student"),
    "mixture-fsdp": lambda world, out: online(world, out, SHARDED, "mixture", "student", fused=True),
    "sft-fsdp": lambda world, out: sft(world, out, FSDP),
    "lora-ddp": lambda world, out: lora(world, out, DDP),
    "lora-fsdp": lambda world, out: lora(world, out, FSDP),
    "several-ddp": lambda world, out: several(world, out, DDP),
    "lora-stopped": lambda world, out: stopped(world, out, FSDP, run=lora),
    "stopped-fsdp": lambda world, out: stopped(world, out, SHARDED),
    "tokenizers-ddp": lambda world, out: other_tokenizer(world, out, DDP, "online-teacher"),
    "tokenizers-fsdp": lambda world, out: other_tokenizer(world, out, SHARDED, "offline"),
    "refused": lambda world, out: refused(world, out, DDP),
}
FOR_FOUR = ("offline-ddp", "offline-fsdp", "mixture-fsdp", "stopped-fsdp")


def begin_across(world: Path, out: Path) -> None:
    """Two sharded ranks stop in the middle, and the run is copied for every number of ranks that resumes it."""
    stopped(world, out / "begun", SHARDED, resumes=False)


def resume_across(world: Path, out: Path, world_size: int) -> None:
    """One process, two replicas, four shards."""
    offline(world, out / f"across-to-{world_size}", DDP if world_size == 2 else SHARDED)
