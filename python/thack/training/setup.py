"""What sft and distill do alike before and after the loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from thack.config import MemorySettings
from thack.errors import MismatchError
from thack.files import canonical_json, digest
from thack.models.protocol import LanguageModel
from thack.reporting.model_card import write_card
from thack.runtime.process_group import ProcessGroup
from thack.training.checkpoint import Snapshot, checkpoints, read_snapshot, restore_optimizer
from thack.training.loop import Job
from thack.training.sharding import WrappedModel, as_module


def finish(job: Job, group: ProcessGroup) -> None:
    """Publish the last checkpoint's model, or the best one's; returns once every rank is here."""
    best = job.state.get("best_step")
    folder = job.run.checkpoints
    if job.run.writes:  # on other nodes the checkpoints may not be seen yet
        job.run.publish(folder / f"step_{best:06d}" if best is not None else checkpoints(folder)[-1])
        write_card(job.run.path)
    group.barrier()


def begin(student: WrappedModel, optimizer: torch.optim.Optimizer, checkpoint: Path | None) -> Snapshot:
    """Where the run goes on: the checkpoint's snapshot, with its optimizer state in place, or step 0."""
    if checkpoint is None:
        return Snapshot(step=0, trainer={})
    restore_optimizer(as_module(student.model), optimizer, checkpoint)
    return read_snapshot(checkpoint)


def check_same_start(group: ProcessGroup, facts: Mapping[str, Any]) -> None:
    """Refuse ranks that were given different models or data: their sum would be nobody's gradient."""
    found = group.all_gather([digest(canonical_json(facts))])
    if len(set(found)) > 1:
        other = next(rank for rank, value in enumerate(found) if value != found[0])
        raise MismatchError(
            f"ranks 0 and {other} started from different models or data",
            details=(f"rank 0  {found[0]}", f"rank {other}  {found[other]}"),
            hint="the same directories must lie on every node",
        )


def own_dtype(model: LanguageModel, dtype: torch.dtype, memory: MemorySettings) -> torch.dtype:
    """Put the weights into `dtype` themselves if no float32 masters are wanted; what autocast has to do then."""
    if memory.master_weights or dtype == torch.float32:
        return dtype
    as_module(model).to(dtype)
    return torch.float32  # nothing is left to cast


def width_of(model: LanguageModel) -> int:
    """The hidden size: what decides whether bfloat16 pays."""
    return model.head().in_features
