"""The training loop of supervised fine-tuning and distillation: read `Trainer.train` from top to bottom.

N response tokens, H hidden width, V vocabulary; X is H or V. Every gradient is that of Σ loss / (response tokens of the
whole step). So it does not depend on how a step is split into micro-batches (gradient accumulation), nor over ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor

from thack.config import CheckpointSettings
from thack.data.sequence import TokenSequence
from thack.errors import DivergedError, ModelError
from thack.losses.policy import EFFECTIVE_SAMPLES, ON_POLICY
from thack.losses.tally import Tally
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel
from thack.reporting.model_card import write_card
from thack.runtime.device import peak_memory_bytes
from thack.runtime.preemption import StopFlag
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import SILENT, Progress, Task
from thack.schema.metric_rows import MetricsRow
from thack.schema.run import Costs, TrainerState
from thack.targets.keys import Stream, run_words
from thack.training.across import RewrittenData, as_sampled
from thack.training.behaviour import Writer
from thack.training.checkpoint import Snapshot, checkpoints
from thack.training.clock import Clock
from thack.training.data import TrainingData
from thack.training.hooks import Columns, Hook
from thack.training.losses import Losses
from thack.training.objective import Objective
from thack.training.optimizer import Optimizer
from thack.training.pace import Pace
from thack.training.plan import Plan, Window
from thack.training.run_directory import RunDirectory
from thack.training.saver import Saver
from thack.training.sharding import WrappedModels, sum_gradients


@dataclass(slots=True, kw_only=True)
class Trainer:
    """Trains one student. The fields below `progress` are all of its state that changes."""

    models: WrappedModels
    data: TrainingData
    objective: Objective
    optimizer: Optimizer
    plan: Plan
    run: RunDirectory
    checkpoint: CheckpointSettings
    hooks: Sequence[Hook] = ()
    writer: Writer | None = None  # of the responses, for a policy gradient
    clock: Clock = field(default_factory=Clock)
    progress: Progress = SILENT

    step: int = field(default=0, init=False)  # optimizer steps done
    window: Window | None = field(default=None, init=False)  # whose responses are in `sequences`
    sequences: list[TokenSequence] = field(default_factory=list, init=False)
    scored_tokens: int = field(default=0, init=False)  # by the live teacher, over all ranks, in this process
    before: Costs = field(default_factory=Costs, init=False)  # of earlier processes
    evaluated: Costs = field(default_factory=Costs, init=False)  # by evaluations of this process
    started: float = field(default=0.0, init=False)  # by `perf_counter`
    pace: Pace = field(init=False)

    @property
    def model(self) -> LanguageModel:
        """The student as a step runs it: on this rank a replica, or a shard."""
        return self.models.student.model

    @property
    def group(self) -> ProcessGroup:
        return self.run.group

    @property
    def is_finished(self) -> bool:
        """Whether the plan, or a hook, ends the run at this step."""
        return self.step >= self.plan.total_steps or any(hook.should_stop(self.step) for hook in self.hooks)

    def train(self, start: Snapshot) -> None:
        """Train from `start` to the end, with evaluations and checkpoints.

        Raises:
            DivergedError: a loss or gradient is not finite. The last checkpoint can be resumed.
            Preempted, Interrupted: after a signal or a STOP file, with a checkpoint of this step.
        """
        self._restore(start)
        self.model.train()
        self.pace = Pace(self.plan.total_steps, set[int]().union(*(hook.planned for hook in self.hooks)))
        with (
            _own_randomness(),
            self._reading_ahead(),
            StopFlag(*(self.run.asked_in if self.group.is_first else ())) as stop,
            self._saver() as saver,
            self.progress.task(self.run.name, self.plan.total_steps, "step") as bar,
        ):
            bar.advance(self.step)
            if self.step == 0 and self._wants_evaluation():
                self.evaluate()
            while not self.is_finished:
                with self.clock("data"):
                    window, batch = self._next_batch()
                rate = self.optimizer.learning_rate(self.step, self.plan.total_steps)
                num_tokens = sum(len(s.response_ids) for s in batch)
                losses = self._backward(batch, num_tokens, window.epoch)
                losses, norm = self._update(losses, rate, batch)
                self.scored_tokens += num_tokens if self.data.teacher_tokens else 0
                self.step += 1

                left = self.objective.columns(self.group)
                noted = losses.columns() | {"lr": rate, "grad_norm": norm, "tokens": num_tokens}
                self._log_step(window, noted | left)
                self._show(bar, losses.loss, rate, num_tokens, left)
                if self._wants_evaluation():
                    self.evaluate()
                self._save_or_stop(saver, stop)
        self._note(self.pace.summary())
        if self.clock.profile:
            self.progress.note(f"time: {self.clock}")

    def evaluate(self) -> None:
        """Measure the student now, and log one row; hooks see it before it is written."""
        columns: Columns = {}
        began = perf_counter()
        phase = self.progress.task(self.pace.evaluating(self.step), None)
        with self.pace.evaluation(), phase, self.models.for_inference() as student:
            for hook in self.hooks:
                columns |= hook.evaluate(self.step, student)
            for hook in self.hooks:
                hook.after_evaluation(self.step, columns)
            for hook in self.hooks if self.is_finished else ():
                columns |= hook.evaluate_last(self.step, student)
        seconds = self.evaluated.evaluation_seconds + perf_counter() - began
        self.evaluated = sum((hook.costs() for hook in self.hooks), Costs(evaluation_seconds=seconds))
        epoch = self.step / self.plan.steps_per_epoch
        values = columns | self.costs().columns()
        self.run.append(MetricsRow(event="evaluation", step=self.step, epoch=epoch, values=values))
        self._note(self.pace.forecast(self.step))

    def publish(self) -> None:
        """Make model/ of the checkpoint that a hook wants, or of the last; best/ of one that is kept; wait for all."""
        best = next((step for hook in self.hooks if (step := hook.best_step()) is not None), None)
        folder = self.run.checkpoints
        if self.run.writes:  # other nodes may not see the checkpoints yet
            self.run.publish(folder / f"step_{best:06d}" if best is not None else checkpoints(folder)[-1])
            write_card(self.run.path)
            kept = next((step for hook in self.hooks if (step := hook.kept_step()) is not None), None)
            if kept is not None and (folder / f"step_{kept:06d}").is_dir():
                self.run.publish(folder / f"step_{kept:06d}", self.run.best)
        self.group.barrier()

    def costs(self) -> Costs:
        """Of the whole run so far."""
        trained = Costs(generated_tokens=self.data.generated_tokens, teacher_tokens=self.scored_tokens)
        found = self.before + self.evaluated + trained
        return replace(found, seconds=round(perf_counter() - self.started, 3))

    def _restore(self, start: Snapshot) -> None:
        self.step, self.before = start.step, start.state.costs
        responses = list(start.responses or [])
        self.sequences = self.data.rewritten(responses) if isinstance(self.data, RewrittenData) else responses
        self.started = perf_counter() - self.before.seconds
        for hook in self.hooks:
            if hook.name in start.state.hooks:
                hook.load_state_dict(start.state.hooks[hook.name])

    def _wants_evaluation(self) -> bool:
        return any(hook.wants_evaluation(self.step) for hook in self.hooks)

    def _next_batch(self) -> tuple[Window, Sequence[TokenSequence]]:
        """The sequences of this step; at the start of a window, its responses may have to be sampled first."""
        window = self.window
        if window is None or self.step == window.end_step:
            window = self.window = self.plan.window(self.step)
            if not self.sequences or self.step == window.first_step:
                self.sequences = self._sequences_of(window)
            self.data.expect(self._expected(window))
        return window, window.batch(self.sequences, self.step)

    def _sequences_of(self, window: Window) -> list[TokenSequence]:
        if not self.data.keeps_responses:
            return self.data.sequences(window.positions, window.epoch)
        with self.models.for_inference():
            return self.data.sequences(window.positions, window.epoch)

    def _expected(self, window: Window) -> Iterator[Sequence[TokenSequence]]:
        """The sequences of every forward from this step to the end of the window."""
        for step in range(self.step, window.end_step):
            for micro, _ in self.plan.micro_batches(window.batch(self.sequences, step), self.group.rank):
                yield micro

    def _backward(self, batch: Sequence[TokenSequence], num_tokens: int, epoch: int) -> Losses:
        """Forwards and backwards of this rank's part of the step; returns its part of the losses."""
        losses, rank, objective = Losses(), self.group.rank, self.objective.at(self.step, self.plan.total_steps)
        for number, (micro, counts) in enumerate(self.plan.micro_batches(batch, rank)):
            _seed_dropout(self.plan.seed, self.step, number, rank.rank)
            with self.clock("data"):
                rows = Batch.of(micro, self.model.device)
                target = self.data.target(micro, rows, epoch)
                behaviour = ON_POLICY if self.writer is None else self.writer.behaviour(micro, rows, target)
            with self.clock("forward"), objective.precision.autocast(self.model):
                output_NX = self.model(rows, project=not objective.takes_hidden(len(rows.labels_N)))
            with self.clock("loss"), self._divergence_named(output_NX, batch):
                share = 1 / num_tokens if counts else 0.0
                once = objective if counts else replace(objective, tally=Tally())
                part = once(output_NX, target, rows.labels_N, behaviour).sum() * share
                balance = objective.router_loss()
            with self.clock("backward"):
                (part if balance is None else part + balance * (len(rows.labels_N) * share)).backward()
            losses += Losses.of(part, balance, len(rows.labels_N) * share)
        return losses

    def _update(self, losses: Losses, rate: float, batch: Sequence[TokenSequence]) -> tuple[Losses, float]:
        """One optimizer step with the gradients of all ranks; returns the losses of all and the gradient's norm."""
        with self.clock("optimizer"):
            sum_gradients(self.optimizer.parameters, self.group)
            losses = losses.summed(self.group)
            norm = self.optimizer.clip()
            if not (math.isfinite(losses.loss) and math.isfinite(norm)):  # before NaN is in the weights
                raise self._diverged(batch, losses.loss, norm)
            self.optimizer.step(rate)
        return losses, norm

    def _show(self, bar: Task, loss: float, rate: float, num_tokens: int, left: Mapping[str, float]) -> None:
        """What a person watches: loss, speed, learning rate, memory, and the time left with its evaluations."""
        self.pace.count(num_tokens)
        fields = {"tok/s": round(self.pace.tokens_per_s), "lr": rate, "GB": peak_memory_bytes(self.model.device) / 1e9}
        if (effective := left.get(EFFECTIVE_SAMPLES)) is not None:
            fields["ESS"] = round(effective, 3)
        bar.left(self.pace.left(self.step))  # before it may print
        bar.advance(1, loss=loss, **fields)

    def _note(self, line: str | None) -> None:
        if line is not None:
            self.progress.note(f"{self.run.name}: {line}")

    def _log_step(self, window: Window, values: dict[str, float]) -> None:
        columns = values | self.clock.columns() | self.costs().columns()
        self.run.append(MetricsRow(event="train", step=self.step, epoch=window.epoch, values=columns))

    def _save_or_stop(self, saver: Saver, stop: StopFlag) -> None:
        """Save where it is due or asked for, on all ranks alike; after a signal to any of them, save and raise."""
        urgency, asked, failed = self.group.all_reduce_max(stop.urgency, stop.save_requested(), saver.failed)
        stopped = stop.adopt(int(urgency))
        if failed:
            saver.wait()
        if stopped or asked or self._is_checkpoint_due():
            self._save(saver)
        if stopped and not self.is_finished:
            saver.wait()
            raise stop.error(f"step {self.step} in {self.run.path}")

    def _is_checkpoint_due(self) -> bool:
        every = self.checkpoint.every_steps
        wanted = any(hook.wants_checkpoint(self.step) for hook in self.hooks)
        return wanted or self.is_finished or bool(every and self.step % every == 0)

    def _save(self, saver: Saver) -> None:
        """Start the checkpoint of this step, once the rows of the logs up to it are durable."""
        within = self.window is not None and self.step < self.window.end_step
        responses = as_sampled(self.sequences) if within and self.data.keeps_responses else None
        states = {hook.name: hook.state_dict() for hook in self.hooks if hook.name}
        state = TrainerState(step=self.step, costs=self.costs(), hooks=states)
        self.run.sync()
        protected = frozenset[int]().union(*(hook.protected_steps() for hook in self.hooks))
        saver.save(Snapshot(state=state, responses=responses), protected)

    def _saver(self) -> Saver:
        return Saver(self.run.checkpoints, self.models.student, self.optimizer.adamw, self.group, self.checkpoint)

    @contextmanager
    def _reading_ahead(self) -> Iterator[None]:
        """However the run ends, no thread continues to read for it."""
        try:
            yield
        finally:
            self.data.expect(())

    @contextmanager
    def _divergence_named(self, output_NX: Tensor, batch: Sequence[TokenSequence]) -> Iterator[None]:
        """A kernel refuses NaN. If the student computed it, the run has diverged."""
        try:
            yield
        except ModelError as error:
            if bool(torch.isfinite(output_NX).all()):
                raise
            raise self._diverged(batch, math.nan, math.nan) from error

    def _diverged(self, batch: Sequence[TokenSequence], loss: float, norm: float) -> DivergedError:
        hint = "lower `optimizer.learning_rate`, or look at these prompts"
        if math.isinf(loss) and math.isfinite(norm):  # a divergence that is infinite by definition, not by its size
            hint = "one side has no mass where the other has some: use jsd or skewed_kl"
        names = ", ".join(s.prompt_id for s in batch[:4]) + (", …" if len(batch) > 4 else "")
        return DivergedError(
            f"training diverged at step {self.step + 1}: loss {loss:g}, gradient norm {norm:g}",
            details=(f"prompts of this step: {names}", f"the last good checkpoint is kept in {self.run.checkpoints}"),
            hint=hint,
        )


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Dropout draws from torch's global generators; the caller finds them as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


def _seed_dropout(seed: int, step: int, micro: int, rank: int) -> None:
    """Seeded by place, not by history, so that a resumed run draws what an uninterrupted one would."""
    (word,) = run_words(seed, Stream.DROPOUT, step, rank=rank, part=micro)
    torch.manual_seed(int(word) >> 1)
