"""A tiny world for tests: one tokenizer, models of width 16, sequences, and a trainer."""

from __future__ import annotations

from collections.abc import Callable
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
from thack.models.load import load_model, new_decoder
from thack.models.native.llama import Llama
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ALONE
from thack.runtime.progress import SILENT
from thack.runtime.runlog import read
from thack.training.checkpoint import Snapshot
from thack.training.data import PairedData
from thack.training.hooks import Hook
from thack.training.objective import supervised
from thack.training.optimizer import Optimizer
from thack.training.plan import Plan
from thack.training.run_directory import RunDirectory
from thack.training.setup import starting_point
from thack.training.sharding import WrappedModels, as_module, wrap_student
from thack.training.trainer import Trainer

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


class Measured(Hook):
    """Evaluates at given steps by a given function."""

    def __init__(self, steps: frozenset[int], measure: Callable[[int], dict[str, float]]) -> None:
        self.steps, self.measure = steps, measure

    def wants_evaluation(self, step: int) -> bool:
        return step in self.steps

    def evaluate(self, step: int, student: LanguageModel) -> dict[str, float]:
        return self.measure(step)


def make_trainer(
    path: Path,
    *,
    total_steps: int = 8,
    batch_size: int = 4,
    dropout: float = 0.0,
    every: int = 1,
    keep: int = 100,
    micro: int = 0,
    evaluations: frozenset[int] = frozenset(),
    evaluate: Callable[[int], dict[str, float]] = lambda step: {},
) -> tuple[Trainer, Snapshot]:
    """Fine-tuning in `path`, resumed from the newest complete checkpoint there."""
    run = RunDirectory(SftSettings(out=path), "sft")
    run.claim()
    checkpoint = run.resumable(SILENT)
    student = load_model(checkpoint) if checkpoint else model(dropout=dropout)
    wrapped = wrap_student(student, ParallelSettings(), ALONE, background=True)
    optimizer = Optimizer(as_module(student), OPTIMIZER)
    start = starting_point(wrapped, optimizer.adamw, checkpoint)
    run.open_logs(start.step)
    pairs = sequences()
    trainer = Trainer(
        models=WrappedModels(student=wrapped),
        data=PairedData(pairs),
        objective=supervised(student),
        optimizer=optimizer,
        plan=Plan(
            num_sequences=len(pairs),
            batch_size=batch_size,
            seed=7,
            total_steps=total_steps,
            micro_batch_size=micro,
            window_steps=3,
        ),
        run=run,
        checkpoint=CheckpointSettings(every_steps=every, keep=keep),
        hooks=[Measured(evaluations, evaluate)],
    )
    return trainer, start


def train(path: Path, **kwargs: Any) -> Trainer:
    trainer, start = make_trainer(path, **kwargs)
    try:
        trainer.train(start)
    finally:
        trainer.run.close()
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in as_module(trainer.model).named_parameters()}


def rows(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the wall times."""
    return [
        {k: v for k, v in row.items() if not k.startswith(("seconds", "evaluation_"))}
        for row in read(path / "metrics.jsonl")
    ]
