"""The training loop, for supervised fine-tuning and distillation alike: read `train` from top to bottom.

N response tokens, V vocabulary. Every gradient is that of Σ loss / (valid tokens of the whole step), so it
does not depend on how a step is split into micro-batches, nor over ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thack.config.settings import CheckpointSettings, OptimizerSettings
from thack.errors import DivergedError, ModelError
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel
from thack.runtime.preemption import StopFlag
from thack.runtime.progress import SILENT, Progress
from thack.targets import TokenSequence
from thack.training.checkpoint import Snapshot, check_checkpoint, prune_checkpoints, save_checkpoint
from thack.training.clock import Clock
from thack.training.material import Material
from thack.training.optimizer import clip_gradients, learning_rate, set_learning_rate
from thack.training.plan import Plan, Window, share
from thack.training.rundir import RunDirectory
from thack.training.team import Team

Row = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Job:
    """Everything that the loop needs, put together by `run_sft` and `run_distill`."""

    name: str
    model: LanguageModel
    material: Material
    loss: Callable[[Tensor, Any, Tensor], Tensor]  # (logits_NV, target, labels_N) → loss_N
    evaluate: Callable[[int], Row]  # step → columns, logged with the step
    evaluation_steps: frozenset[int]
    plan: Plan
    optimizer: torch.optim.Optimizer
    optimizer_settings: OptimizerSettings
    checkpoint: CheckpointSettings
    run: RunDirectory
    state: Row = field(default_factory=dict)  # what `evaluate` remembers; saved with every checkpoint
    spent: Mapping[str, Any] = field(default_factory=dict)  # costs of the run before this process
    protected: Callable[[], frozenset[int]] = frozenset  # steps whose checkpoints are not pruned
    ended: Callable[[int], bool] = lambda step: False  # whether to end at this step, before the plan does
    fuses: Callable[[int], bool] = lambda num_tokens: False  # whether `loss` takes hidden_NH instead, and sums
    micro_batch_size: int = 0
    dtype: torch.dtype = torch.float32
    team: Team = field(default_factory=Team)
    clock: Clock = field(default_factory=Clock)
    profile: bool = False
    progress: Progress = SILENT


def train(job: Job, start: Snapshot) -> None:
    """Train from `start` to the plan's last step, logging, evaluating and saving on the way.

    Raises DivergedError at a loss or gradient that is not finite, and what `StopFlag.error` says after a
    signal; both leave a run that goes on when started again.
    """
    model, plan, run, team, clock = job.model, job.plan, job.run, job.team, job.clock
    step, began = start.step, perf_counter() - float(start.trainer.get("seconds", 0.0))
    window, sequences = None, list(start.responses or [])
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.train()
    with (
        _own_randomness(),
        _reading_ahead(job),
        StopFlag(run.path) as stop,
        job.progress.task(job.name, plan.total_steps, "step") as bar,
    ):
        bar.advance(step)
        if step == 0 and 0 in job.evaluation_steps:
            _evaluate(job, step, began)
        while step < plan.total_steps and not job.ended(step):
            with clock("data"):
                if window is None or step == window.first_step + len(window.batches):
                    window = plan.window(step)
                    if not sequences or step == window.first_step:
                        sequences = _write(job, window)
                    job.material.expect(_ahead(job, window, sequences, step))
                batch = _batch_of(window, sequences, step)
                num_tokens = sum(len(s.response_ids) for s in batch)
            rate = learning_rate(job.optimizer_settings, step, plan.total_steps)
            set_learning_rate(job.optimizer, rate)

            loss = 0.0
            for number, micro in enumerate(_micro_batches(batch, job)):
                _seed_dropout(plan.seed, step, number, team.rank.rank)
                with clock("data"):
                    rows = Batch.of(micro, model.device)
                    target = job.material.target(micro, rows, window.epoch)
                with clock("forward"), _autocast(job):
                    output_NX = model(rows, project=not job.fuses(len(rows.labels_N)))
                with clock("loss"), _divergence_named(output_NX, step + 1, batch, run):
                    share_of_loss = job.loss(output_NX, target, rows.labels_N).sum() / num_tokens
                with clock("backward"):
                    share_of_loss.backward()  # type: ignore[no-untyped-call]
                loss += float(share_of_loss.detach())

            with clock("optimizer"):
                loss = team.sum(loss)
                norm = clip_gradients(parameters, job.optimizer_settings.clip_norm)
                _check_finite(loss, norm, step + 1, batch, run)
                job.optimizer.step()
                job.optimizer.zero_grad(set_to_none=True)
            step += 1

            run.append(_train_row(job, step, window, began, loss=loss, lr=rate, grad_norm=norm, tokens=num_tokens))
            bar.advance(1, loss=round(loss, 4))
            if step in job.evaluation_steps or job.ended(step):
                _evaluate(job, step, began)
            stopped, asked = team.any(stop.requested is not None), team.any(stop.save_requested())
            if stopped or asked or _due(job, step):
                _save(job, step, window, sequences, began)
            if stopped and step < plan.total_steps and not job.ended(step):
                raise stop.error(f"step {step} in {run.path}")
    if job.profile:
        job.progress.note(f"time: {clock}")


def _write(job: Job, window: Window) -> list[TokenSequence]:
    """The window's sequences; a student that writes some itself does so in eval mode (trap 15)."""
    job.model.eval()
    try:
        return job.material.sequences(window.positions, window.epoch)
    finally:
        job.model.train()


def _batch_of(window: Window, sequences: Sequence[TokenSequence], step: int) -> Sequence[TokenSequence]:
    sizes = [len(batch) for batch in window.batches]
    first = sum(sizes[: step - window.first_step])
    return sequences[first : first + sizes[step - window.first_step]]


def _ahead(
    job: Job, window: Window, sequences: Sequence[TokenSequence], step: int
) -> Iterator[Sequence[TokenSequence]]:
    """Every forward's sequences from `step` to the end of the window."""
    for later in range(step, window.first_step + len(window.batches)):
        yield from _micro_batches(_batch_of(window, sequences, later), job)


def _micro_batches(batch: Sequence[TokenSequence], job: Job) -> Iterator[Sequence[TokenSequence]]:
    """This rank's part of the step, in forwards of at most `micro_batch_size`."""
    own = share(batch, job.team.rank.rank, job.team.world_size)
    size = job.micro_batch_size or len(own)
    for start in range(0, len(own), max(1, size)):
        yield own[start : start + size]


def _autocast(job: Job) -> AbstractContextManager[Any]:
    if job.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(job.model.device.type, dtype=job.dtype)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Dropout draws from torch's global generators; leave them to the caller as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@contextmanager
def _reading_ahead(job: Job) -> Iterator[None]:
    """Whatever happens, no thread goes on reading behind the run's back."""
    try:
        yield
    finally:
        job.material.expect(())


def _seed_dropout(seed: int, step: int, micro: int, rank: int) -> None:
    """Seeded by place, not by history, so that a resumed run draws what an uninterrupted one would."""
    word = np.random.Philox(key=seed, counter=[micro, rank, step, 2]).random_raw()
    torch.manual_seed(int(word) >> 1)


@contextmanager
def _divergence_named(
    output_NX: Tensor, step: int, batch: Sequence[TokenSequence], run: RunDirectory
) -> Iterator[None]:
    """A kernel that refuses NaN has found that training diverged, if the student made it."""
    try:
        yield
    except ModelError:
        if bool(torch.isfinite(output_NX).all()):
            raise
        _check_finite(math.nan, math.nan, step, batch, run)


def _check_finite(loss: float, norm: float, step: int, batch: Sequence[TokenSequence], run: RunDirectory) -> None:
    """Stop before the optimizer would write NaN into the weights."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    names = ", ".join(s.prompt_id for s in batch[:4]) + (", …" if len(batch) > 4 else "")
    raise DivergedError(
        f"training diverged at step {step}: loss {loss:g}, gradient norm {norm:g}",
        details=(f"prompts of this step: {names}", f"the last good checkpoint is kept in {run.checkpoints}"),
        hint="lower optimizer.learning_rate, or look at these prompts",
    )


def _train_row(job: Job, step: int, window: Window, began: float, **values: float) -> Row:
    row: Row = {"event": "train", "step": step, "epoch": window.epoch, **values}
    if job.profile:
        row |= job.clock.row()
    return row | _costs(job, began)


def _costs(job: Job, began: float) -> Row:
    return {
        "generated_tokens": job.material.generated_tokens + job.spent.get("generated_tokens", 0),
        "teacher_tokens": job.material.teacher_tokens + job.spent.get("teacher_tokens", 0),
        "seconds": round(perf_counter() - began, 3),
    }


def _evaluate(job: Job, step: int, began: float) -> None:
    columns = job.evaluate(step)
    epoch = step / job.plan.steps_per_epoch
    job.run.append({"event": "evaluation", "step": step, "epoch": epoch, **columns, **_costs(job, began)})


def _due(job: Job, step: int) -> bool:
    every = job.checkpoint.every_steps
    return (
        step in job.evaluation_steps
        or step == job.plan.total_steps
        or job.ended(step)
        or bool(every and step % every == 0)
    )


def _save(job: Job, step: int, window: Window, sequences: Sequence[TokenSequence], began: float) -> None:
    """Write the checkpoint, read it back, and only then let older ones go."""
    within = step < window.first_step + len(window.batches)
    trainer = {**_costs(job, began), "state": job.state}
    responses = sequences if within and job.material.keeps_responses else None
    if job.run.writes:
        job.run.sync()
        snapshot = Snapshot(step=step, trainer=trainer, responses=responses)
        check_checkpoint(save_checkpoint(job.run.checkpoints, job.model, job.optimizer, snapshot))
        prune_checkpoints(job.run.checkpoints, job.checkpoint.keep, job.protected())
    job.team.barrier()
