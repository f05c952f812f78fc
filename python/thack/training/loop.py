"""The training loop, for supervised fine-tuning and distillation alike: read `train` from top to bottom.

N response tokens, V vocabulary. Every gradient is that of Σ loss / (valid tokens of the whole step), so it
does not depend on how a step is split into micro-batches, nor over ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from thack.config import CheckpointSettings, OptimizerSettings
from thack.data.sequence import TokenSequence
from thack.errors import DivergedError, ModelError
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel
from thack.runtime.preemption import StopFlag
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.targets.keys import Stream, run_words
from thack.training.checkpoint import Snapshot
from thack.training.clock import Clock
from thack.training.data import TrainingData
from thack.training.optimizer import clip_gradients, learning_rate, set_learning_rate
from thack.training.plan import Plan, Window, share
from thack.training.run_directory import RunDirectory
from thack.training.saver import Saver
from thack.training.sharding import WrappedModel, sum_gradients

Row = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Job:
    """Everything that the loop needs, put together by `run_sft` and `run_distill`."""

    name: str
    student: WrappedModel
    training_data: TrainingData
    loss: Callable[[Tensor, Any, Tensor], Tensor]  # (logits_NV, target, labels_N) → loss_N
    evaluate: Callable[[int], Row]  # step → columns, logged with the step
    evaluation_steps: frozenset[int]
    plan: Plan
    optimizer: torch.optim.Optimizer
    optimizer_settings: OptimizerSettings
    checkpoint: CheckpointSettings
    run: RunDirectory
    saver: Saver
    teacher: WrappedModel | None = None
    state: Row = field(default_factory=dict)  # what `evaluate` remembers; saved with every checkpoint
    spent: Mapping[str, Any] = field(default_factory=dict)  # costs of the run before this process
    protected: Callable[[], frozenset[int]] = frozenset  # steps whose checkpoints are not pruned
    asks: Callable[[int], bool] = lambda step: False  # whether a guard wants an evaluation at this step, too
    ended: Callable[[int], bool] = lambda step: False  # whether to end at this step, before the plan does
    fuses: Callable[[int], bool] = lambda num_tokens: False  # whether `loss` takes hidden_NH instead, and sums
    micro_batch_size: int = 0
    dtype: torch.dtype = torch.float32
    group: ProcessGroup = ALONE
    clock: Clock = field(default_factory=Clock)
    profile: bool = False
    progress: Progress = SILENT
    scored_tokens: int = 0  # by the live teacher, over all ranks

    @property
    def model(self) -> LanguageModel:
        """What a step runs: on this rank the whole student, or its shard of it."""
        return self.student.model


def train(job: Job, start: Snapshot) -> None:
    """Train from `start` to the plan's last step, logging, evaluating and saving on the way.

    Raises DivergedError at a loss or gradient that is not finite, and what `StopFlag.error` says after a
    signal; both leave a run that goes on when started again.
    """
    model, plan, run, group, clock = job.model, job.plan, job.run, job.group, job.clock
    step, began = start.step, perf_counter() - float(start.trainer.get("seconds", 0.0))
    window, sequences = None, list(start.responses or [])
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.train()
    with (
        _own_randomness(),
        _reading_ahead(job),
        StopFlag(run.path if group.is_first else None) as stop,
        job.saver as saver,
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
                    job.training_data.expect(_ahead(job, window, sequences, step))
                batch = _batch_of(window, sequences, step)
            rate = learning_rate(job.optimizer_settings, step, plan.total_steps)
            set_learning_rate(job.optimizer, rate)
            num_tokens = sum(len(s.response_ids) for s in batch)
            loss = _backward(job, batch, num_tokens, step, window.epoch)
            loss, norm = _update(job, parameters, loss, step, batch)
            job.scored_tokens += num_tokens if job.training_data.teacher_tokens else 0
            step += 1

            run.append(_train_row(job, step, window, began, loss=loss, lr=rate, grad_norm=norm, tokens=num_tokens))
            bar.advance(1, loss=round(loss, 4))
            if step in job.evaluation_steps or job.asks(step):
                _evaluate(job, step, began)
            urgency, asked, broken = group.all_reduce_max(stop.urgency, stop.save_requested(), saver.failed)
            stopped = stop.adopt(int(urgency))
            if broken:
                saver.wait()
            if stopped or asked or _due(job, step):
                _save(job, step, window, sequences, began)
            if stopped and step < plan.total_steps and not job.ended(step):
                saver.wait()
                raise stop.error(f"step {step} in {run.path}")
    if job.profile:
        job.progress.note(f"time: {clock}")


def _backward(job: Job, batch: Sequence[TokenSequence], num_tokens: int, step: int, epoch: int) -> float:
    """Forwards and backwards of this rank's share of the step; returns its share of the loss."""
    loss = 0.0
    for number, (micro, divisor) in enumerate(_micro_batches(batch, num_tokens, job)):
        _seed_dropout(job.plan.seed, step, number, job.group.rank.rank)
        with job.clock("data"):
            rows = Batch.of(micro, job.model.device)
            target = job.training_data.target(micro, rows, epoch)
        with job.clock("forward"), _autocast(job):
            output_NX = job.model(rows, project=not job.fuses(len(rows.labels_N)))
        with job.clock("loss"), _divergence_named(output_NX, step + 1, batch, job.run):
            share_of_loss = job.loss(output_NX, target, rows.labels_N).sum() / divisor
        with job.clock("backward"):
            share_of_loss.backward()  # type: ignore[no-untyped-call]
        loss += float(share_of_loss.detach())
    return loss


def _update(
    job: Job, parameters: Sequence[torch.nn.Parameter], loss: float, step: int, batch: Sequence[TokenSequence]
) -> tuple[float, float]:
    """One step of the optimizer with the gradients of all ranks; returns the loss of all and the gradient's norm."""
    with job.clock("optimizer"):
        sum_gradients(parameters, job.group)
        (loss,) = job.group.all_reduce_sum(loss)
        norm = clip_gradients(parameters, job.optimizer_settings.clip_norm)
        _check_finite(loss, norm, step + 1, batch, job.run)
        job.optimizer.step()
        job.optimizer.zero_grad(set_to_none=True)
    return loss, norm


@contextmanager
def _whole(job: Job) -> Iterator[None]:
    """Student and teacher as models that this rank can run alone; a student that reads or writes does so in
    eval mode (pitfall 15)."""
    with ExitStack() as stack:
        for held in (job.student, job.teacher):
            if held is not None:
                stack.enter_context(held.whole())
        job.model.eval()
        try:
            yield
        finally:
            job.model.train()


def _write(job: Job, window: Window) -> list[TokenSequence]:
    """The window's sequences, some of which may have to be written first."""
    if not job.training_data.keeps_responses:
        return job.training_data.sequences(window.positions, window.epoch)
    with _whole(job):
        return job.training_data.sequences(window.positions, window.epoch)


def _batch_of(window: Window, sequences: Sequence[TokenSequence], step: int) -> Sequence[TokenSequence]:
    sizes = [len(batch) for batch in window.batches]
    first = sum(sizes[: step - window.first_step])
    return sequences[first : first + sizes[step - window.first_step]]


def _ahead(
    job: Job, window: Window, sequences: Sequence[TokenSequence], step: int
) -> Iterator[Sequence[TokenSequence]]:
    """Every forward's sequences from `step` to the end of the window."""
    for later in range(step, window.first_step + len(window.batches)):
        for micro, _ in _micro_batches(_batch_of(window, sequences, later), 1, job):
            yield micro


def _micro_batches(
    batch: Sequence[TokenSequence], num_tokens: int, job: Job
) -> Iterator[tuple[Sequence[TokenSequence], float]]:
    """This rank's part of the step, in forwards of at most `micro_batch_size`, and what to divide their sum by.

    All ranks make the same number of forwards, since each of them may communicate: one with too few sequences
    runs one of another's, whose loss counts nothing.
    """
    own = share(batch, job.group.rank.rank, job.group.world_size)
    most = -(-len(batch) // job.group.world_size)
    size = min(job.micro_batch_size or most, most)
    for start in range(0, most, size):
        part = own[start : start + size]
        yield (part, num_tokens) if part else (batch[:1], math.inf)


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
        job.training_data.expect(())


def _seed_dropout(seed: int, step: int, micro: int, rank: int) -> None:
    """Seeded by place, not by history, so that a resumed run draws what an uninterrupted one would."""
    (word,) = run_words(seed, Stream.DROPOUT, step, rank=rank, part=micro)
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
        "generated_tokens": job.training_data.generated_tokens + job.spent.get("generated_tokens", 0),
        "teacher_tokens": job.scored_tokens + job.spent.get("teacher_tokens", 0),
        "seconds": round(perf_counter() - began, 3),
    }


def _evaluate(job: Job, step: int, began: float) -> None:
    with _whole(job):
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
    """Start the checkpoint of this step, once the log's rows up to it are durable."""
    within = step < window.first_step + len(window.batches)
    trainer = {**_costs(job, began), "state": dict(job.state)}
    responses = sequences if within and job.training_data.keeps_responses else None
    job.run.sync()
    job.saver.save(Snapshot(step=step, trainer=trainer, responses=responses), job.protected())
