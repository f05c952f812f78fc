"""What sft and distill have in common around the training itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from thack.config import DistillSettings, DTypeName, MemorySettings, RouterLoss, SftSettings
from thack.errors import MismatchError
from thack.files import canonical_json, digest
from thack.models.precision import Precision, inference_precision
from thack.models.protocol import LanguageModel
from thack.models.routers import balance_routers
from thack.runtime.device import apply_threads, choose_device
from thack.runtime.process_group import ProcessGroup, init_process_group
from thack.runtime.progress import SILENT, Progress
from thack.schema import document
from thack.schema.run import Command, RunFacts, TrainerState
from thack.training.checkpoint import Snapshot, read_snapshot, restore_optimizer
from thack.training.run_directory import RunDirectory
from thack.training.sharding import WrappedModel, as_module
from thack.training.trainer import Trainer

Prepare = Callable[[RunDirectory, torch.device, Progress], tuple[Trainer, Snapshot]]
Beside = Callable[[RunDirectory, torch.device, Progress], None]


def run_training(
    settings: SftSettings | DistillSettings,
    command: Command,
    prepare: Prepare,
    progress: Progress,
    name: str,
    *,
    beside: Beside | None = None,
) -> RunDirectory:
    """A run from its directory to its model, on every rank. A finished one is returned, a stopped one resumed.

    `prepare` gives the trainer, and the point to start from; `beside` is another run within the directory, that starts
    once this one has its model. It too is resumed, and STATUS.json says finished when both are.
    """
    device = choose_device(settings.device)
    with init_process_group(device) as group:
        progress = progress if group.is_first else SILENT
        run = RunDirectory(settings, command, group, name)
        train_in(run, prepare, device, progress, beside)
    return run


def train_in(
    run: RunDirectory, prepare: Prepare, device: torch.device, progress: Progress, beside: Beside | None = None
) -> None:
    """Train what is not trained yet in the directory of a run. Arguments as of `run_training`."""
    with run.locked(progress):
        run.claim()
        finished = run.finished()
        if finished:
            progress.note(f"{run.path} is already complete")
            if beside is None:
                return
        apply_threads()
        with run.recorded():
            if not finished:
                _train(run, prepare, device, progress)
            if beside is not None:
                beside(run, device, progress)


def _train(run: RunDirectory, prepare: Prepare, device: torch.device, progress: Progress) -> None:
    """In a function of its own, so that the models are gone afterwards."""
    trainer, start = prepare(run, device, progress)
    trainer.train(start)
    trainer.publish()


def training_precision(
    student: LanguageModel, dtype: DTypeName, memory: MemorySettings, group: ProcessGroup
) -> Precision:
    """The number format of the student's products, on all ranks; without master weights, that of its weights too."""
    chosen = group.broadcast_from_rank0(inference_precision(student, dtype))
    if memory.master_weights or chosen.dtype == torch.float32:
        return chosen
    as_module(student).to(chosen.dtype)
    return Precision(dtype=chosen.dtype, reason=chosen.reason, casts=False)


def balance(student: LanguageModel, choice: RouterLoss, progress: Progress) -> None:
    """Let training add the balancing loss of a mixture of experts, and say so.

    Raises:
        UsageError: it is asked for, and the model defines none.
    """
    if balance_routers(student.routers, choice):
        progress.note("router loss: the model's own balancing loss is added (`router_loss`)")


def starting_point(student: WrappedModel, optimizer: torch.optim.Optimizer, checkpoint: Path | None) -> Snapshot:
    """The checkpoint's snapshot, with the optimizer's state restored; or step 0."""
    if checkpoint is None:
        return Snapshot(state=TrainerState(step=0))
    restore_optimizer(as_module(student.model), optimizer, checkpoint)
    return read_snapshot(checkpoint)


def check_same_start(group: ProcessGroup, facts: RunFacts) -> None:
    """Raise MismatchError on all ranks if they were given different models or data."""
    found = group.all_gather([digest(canonical_json(document.dump(facts)))])
    if len(set(found)) > 1:
        other = next(rank for rank, value in enumerate(found) if value != found[0])
        raise MismatchError(
            f"ranks 0 and {other} started from different models or data: averaging their gradients is meaningless",
            details=(f"rank 0  {found[0]}", f"rank {other}  {found[other]}"),
            hint="every node must see the same directories",
        )
