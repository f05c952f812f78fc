"""A tiny world for tests: one tokenizer, models of width 16, sequences, and jobs for the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thack.config import (
    ArchitectureSettings,
    CheckpointSettings,
    OptimizerSettings,
    ParallelSettings,
    SftSettings,
)
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.losses import cross_entropy
from thack.models.load import load_model, new_decoder
from thack.models.native.llama import Llama
from thack.runtime.process_group import ALONE
from thack.runtime.progress import SILENT
from thack.runtime.runlog import read
from thack.training.checkpoint import Snapshot, read_snapshot, restore_optimizer
from thack.training.data import PairedData
from thack.training.loop import Job, train
from thack.training.optimizer import build_optimizer
from thack.training.plan import Plan
from thack.training.run_directory import RunDirectory
from thack.training.saver import Saver
from thack.training.sharding import wrap_student

OPTIMIZER = OptimizerSettings(learning_rate=5e-3, warmup_steps=2)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def read(path): read the file at path"] * 3, 264)


def model(seed: int = 0, dropout: float = 0.0, width: int = 16) -> Llama:
    settings = ArchitectureSettings(hidden_size=width, num_layers=2, num_heads=2, max_positions=48, dropout=dropout)
    return new_decoder(settings, tokenizer(), seed)


def sequences(count: int = 14, seed: int = 0) -> list[TokenSequence]:
    rng = np.random.default_rng(seed)
    return [
        TokenSequence(
            example=i,
            prompt_id=f"p{i}",
            prompt_ids=rng.integers(2, 264, rng.integers(1, 6), dtype=np.int32),
            response_ids=rng.integers(1, 264, rng.integers(1, 8), dtype=np.int32),
        )
        for i in range(count)
    ]


@dataclass
class Stop:
    """Stops a run after so many steps, as a signal would, by the STOP file."""

    after: int


def make_job(
    path: Path,
    *,
    total_steps: int = 8,
    batch_size: int = 4,
    dropout: float = 0.0,
    every: int = 1,
    keep: int = 100,
    micro: int = 0,
    evaluations: frozenset[int] = frozenset(),
    evaluate: Callable[[int], dict[str, Any]] = lambda step: {},
) -> tuple[Job, Snapshot]:
    """A fine-tuning job in `path`, going on from the newest whole checkpoint there."""
    run = RunDirectory(path, SftSettings(out=path), "sft")
    run.claim()
    checkpoint = run.resumable(SILENT)
    student = load_model(checkpoint) if checkpoint else model(dropout=dropout)
    held = wrap_student(student, ParallelSettings(), ALONE, background=True)
    optimizer = build_optimizer(student, OPTIMIZER)
    start = Snapshot(step=0, trainer={})
    if checkpoint:
        start = read_snapshot(checkpoint)
        restore_optimizer(student, optimizer, checkpoint)
    run.open_logs(start.step)
    pairs = sequences()
    job = Job(
        name="test",
        student=held,
        training_data=PairedData(pairs),
        loss=lambda logits, _, labels: cross_entropy(logits, labels),
        evaluate=evaluate,
        evaluation_steps=evaluations,
        plan=Plan(num_sequences=len(pairs), batch_size=batch_size, seed=7, total_steps=total_steps, window_steps=3),
        optimizer=optimizer,
        optimizer_settings=OPTIMIZER,
        checkpoint=CheckpointSettings(every_steps=every, keep=keep),
        run=run,
        saver=Saver(run.checkpoints, held, optimizer, ALONE, CheckpointSettings(keep=keep)),
        spent=start.trainer,
        micro_batch_size=micro,
    )
    return job, start


def run_job(path: Path, **kwargs: Any) -> Job:
    job, start = make_job(path, **kwargs)
    try:
        train(job, start)
    finally:
        job.run.close()
    return job


def weights(job: Job) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in job.model.named_parameters()}  # type: ignore[attr-defined]


def rows(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the wall times."""
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in read(path / "metrics.jsonl")]
