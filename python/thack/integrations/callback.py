"""HackingCallback: what `thack distill` logs at its evaluations, in any trainer of transformers or TRL."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from thack.config import EvaluationSettings
from thack.detection import Curves, OracleFreeVerdict, Verdict, verdict, verdict_without_oracle
from thack.errors import DataError, MismatchError, UsageError
from thack.evaluation.cell_monitor import cell_distance
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.monitor import FixedKL, TrainingDistance
from thack.evaluation.references import References
from thack.evaluation.samples import write_prompts
from thack.files import write_text
from thack.integrations.state import Logs, TrainerControl, TrainerState, as_it_was, broadcast_from_rank0, is_sharded
from thack.models.hf import load as hf
from thack.models.hf.model import HuggingFaceModel
from thack.models.protocol import LanguageModel
from thack.reporting.prose import reasons
from thack.runtime import runlog
from thack.runtime.process_group import ALONE
from thack.runtime.runlog import RunLog
from thack.schema.metric_rows import MetricsRow
from thack.schema.metrics import Role, TrainingKL, is_bound
from thack.schema.samples import SAMPLES_FILE
from thack.targets.vocabulary import common_width

_LOG = logging.getLogger("thack")
FOLDER = "thack"  # in the trainer's output_dir
# Of EvaluationSettings: when a run evaluates itself, and the benchmarks that it runs then.
_OF_RUNS = ("count", "every", "max_share", "spacing", "tasks", "tasks_path", "tasks_at", "tasks_limit")
_METRICS, _PER_PROMPT = "metrics.jsonl", "per_prompt.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackSettings:
    """How a `HackingCallback` measures, and what it does.

    Attributes:
        evaluation: Student samples are off by default: sampling costs more than everything else.
        seed: Of the student's samples.
        out: The folder of the logs; None: `thack/` in the trainer's output_dir.
        stop_on_alarm: End training when the detector that needs no oracle raises an alarm.

    Raises:
        UsageError: a setting of the evaluation that `thack distill` alone follows.
    """

    evaluation: EvaluationSettings = field(default_factory=lambda: EvaluationSettings(student_samples=False))
    seed: int = 0
    out: Path | str | None = None
    stop_on_alarm: bool = False

    def __post_init__(self) -> None:
        for name in _OF_RUNS:
            if getattr(self.evaluation, name) != getattr(EvaluationSettings(), name):
                raise UsageError(
                    f"evaluation.{name} belongs to `thack distill`: a callback evaluates where its `every` says",
                    hint=f"leave out `{name}`, and set `every` of HackingCallback",
                )


class HackingCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Golden, proxy, health and the oracle-free detector on a frozen evaluation set, every `every` optimizer steps.

    Columns go to the trainer's `log_history` and, after `callback.trainer = trainer`, to its trackers. With intervals
    they go to the folder `thack/` in the trainer's output_dir, a run directory for `thack verdict` and `thack report`.
    Random state and train mode are left as they were.

    Every rank runs every forward on the same prompts, so that sharded weights (FSDP, ZeRO-3) are gathered by all
    together; only the first rank writes. Metrics are in the precision of the weights that are trained.

    Args:
        eval_set: Held-out prompts with the responses of the models given.
        teacher: A transformers model, a directory, a name on the hub, or a model of thack's; for the proxy metric.
        oracle: The same, for the golden metric.
        judge: The same: a stronger model where there is no oracle.
        every: Optimizer steps between evaluations, ≥ 1.
        monitor: Training prompts with the responses that are trained on and the teacher's, written by
            `with_responses(References.of(teacher=…, human=True))`. With it the detector compares progress in training
            with progress on held-out prompts, which is what it is good at.
        tokenizer: For models that do not know theirs: thack's, transformers' fast one, or a directory. A student with
            another tokenizer than a reference is measured in nats per byte; then give the references as directories.
        settings: How to measure, and whether to stop on an alarm.

    Raises:
        UsageError: `every` is below 1, a monitor without a teacher, or a model cannot play its role.

    Example:
        >>> references = References.of(teacher=teacher, tokenizer=tokenizer)
        >>> eval_set = EvalSet.from_jsonl(held_out).with_responses(references, max_new_tokens=8)
        >>> trainer.add_callback(HackingCallback(eval_set, teacher=teacher, every=2, tokenizer=tokenizer))
    """

    def __init__(
        self,
        eval_set: EvalSet,
        *,
        teacher: Any = None,
        oracle: Any = None,
        judge: Any = None,
        every: int = 200,
        monitor: EvalSet | None = None,
        tokenizer: Any = None,
        settings: CallbackSettings | None = None,
    ) -> None:
        if every < 1:
            raise UsageError(f"every = {every}: at least 1 optimizer step between evaluations")
        if monitor is not None and teacher is None:
            raise UsageError("a monitor compares the student with its teacher", hint="set `teacher`")
        self.eval_set = eval_set
        self.references = References.of(oracle=oracle, teacher=teacher, judge=judge, tokenizer=tokenizer)
        self.every = every
        self.monitor = monitor
        self.tokenizer = tokenizer
        self.settings = settings or CallbackSettings()
        self.trainer: Logs | None = None
        self.suspicion: OracleFreeVerdict | None = None  # of the detector, after each evaluation
        self.verdict: Verdict | None = None  # after training, where there is a golden column
        self._evaluator: Evaluator | None = None  # with it the monitors
        self._monitors: dict[TrainingKL, TrainingDistance] = {}
        self._out: Path | None = None  # on the first rank, while its logs are open
        self._logs: dict[str, RunLog] = {}  # by file; empty on other ranks
        self._last_step = -1

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Check that everything fits before the first step, and measure the student where it starts."""
        if self.settings.evaluation.student_samples and is_sharded(model):
            raise UsageError(
                "a sharded student cannot be sampled from within its training",
                hint="leave out student_samples of settings.evaluation: the verdict reads fixed responses",
            )
        with self._wrapped(model, kwargs) as student:
            self._prepare(student)
        if state.is_world_process_zero:
            self._open_logs(Path(self.settings.out or Path(args.output_dir) / FOLDER), state.global_step)
        self._evaluate(state, control, model, kwargs)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Evaluate where it is due."""
        if state.global_step % self.every == 0:
            self._evaluate(state, control, model, kwargs)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log the training loss too: a detector reads it where there is no monitor."""
        if self._logs and logs and "loss" in logs:
            row = MetricsRow(event="train", step=state.global_step, values={"loss": logs["loss"]})
            self._logs[_METRICS].append(row.dump())

    def on_train_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Measure the final student, and say what happened to it."""
        if state.global_step != self._last_step:
            self._evaluate(state, control, model, kwargs)
        if self._out is not None:
            self._judge(self._out)
        self._close_logs()

    def _open_logs(self, out: Path, step: int) -> None:
        """A new run begins new logs; a resumed one drops the rows of steps that it runs again."""
        self._close_logs()
        for name in (_METRICS, _PER_PROMPT, SAMPLES_FILE):
            if step == 0:
                (out / name).unlink(missing_ok=True)
            runlog.truncate_after(out / name, step - 1)
            self._logs[name] = RunLog(out / name)
        write_prompts(out, self.eval_set)
        self._out = out

    def _close_logs(self) -> None:
        for log in self._logs.values():
            log.close()
        self._out, self._logs = None, {}

    def _evaluate(self, state: TrainerState, control: TrainerControl, model: Any, given: dict[str, Any]) -> None:
        self._last_step = state.global_step
        with self._wrapped(model, given) as student:
            columns = self._measure(student, state.global_step)
        if state.is_world_process_zero:
            self._record(state, columns)
        if self.settings.stop_on_alarm:
            alarm = self.suspicion is not None and self.suspicion.onset_step is not None
            control.should_training_stop |= broadcast_from_rank0(alarm, student.device)

    @contextmanager
    def _wrapped(self, model: Any, given: dict[str, Any]) -> Iterator[HuggingFaceModel]:
        """The trainer's model as one of thack's; given back as it was."""
        with as_it_was(model):
            student = hf.wrap(model, self.tokenizer or given.get("processing_class"), role="student")
            try:
                yield student
            finally:
                student.release()

    def _measure(self, student: LanguageModel, step: int) -> dict[str, float]:
        found = self._prepare(student).evaluate(student)
        training = {name: monitor.measure(student) for name, monitor in self._monitors.items()}
        if self._logs:
            self._logs[_PER_PROMPT].append(replace(found.per_prompt_row(step), training=training).dump())
            for row in found.kept.rows(step, self.eval_set.ids, student.tokenizer, ALONE) if found.kept else ():
                self._logs[SAMPLES_FILE].append(row.dump())
        return {str(name): sums.token_mean for name, sums in training.items()} | found.named()

    def _prepare(self, student: LanguageModel) -> Evaluator:
        """References checked against the evaluation set; once, since a fingerprint reads every weight."""
        if self._evaluator is None:
            settings = self.settings
            self._evaluator = Evaluator(self.eval_set, self.references, settings.evaluation, seed=settings.seed)
            for line in self._evaluator.notes(student):
                _LOG.warning("thack: %s", line)
            if self.monitor is not None and self.references.teacher is not None:
                self._monitors = _monitors(self.monitor, self.references.teacher, student)
        return self._evaluator

    def _record(self, state: TrainerState, columns: dict[str, float]) -> None:
        """One row in our log. The values without intervals, and the detectors', go to the trainer's log."""
        assert self._out is not None
        step, epoch = state.global_step, state.epoch or 0.0
        self._logs[_METRICS].append(MetricsRow(event="evaluation", step=step, epoch=epoch, values=columns).dump())
        shown = {name: value for name, value in columns.items() if not is_bound(name)}
        shown |= self._detect(self._out)
        if self.trainer is not None:
            self.trainer.log(shown)
        else:
            state.log_history.append({**shown, "epoch": epoch, "step": step})

    def _detect(self, out: Path) -> dict[str, float]:
        """The detectors' values, and whether the deciding one has fired; nothing without a proxy."""
        curves = Curves.from_run(out)
        if not curves.has("proxy"):
            return {}
        before, self.suspicion = self.suspicion, verdict_without_oracle(curves)
        alarm = self.suspicion.onset_step is not None
        if alarm and (before is None or before.onset_step is None):
            _LOG.warning("thack: %s (%s)", self.suspicion.headline, reasons(self.suspicion)[0])
        values = {found.name.replace(" ", "_"): found.value for found in self.suspicion.detections}
        return {f"detector/{name}": value for name, value in values.items() if value is not None} | {
            "detector/alarm": float(alarm)
        }

    def _judge(self, out: Path) -> None:
        curves = Curves.from_run(out)
        if curves.has("golden"):
            self.verdict = replace(verdict(curves), run=str(out))
            write_text(out / "verdict.json", self.verdict.to_json())
        found = self.verdict or self.suspicion
        if found is not None:
            why = f": {reasons(found)[0]}" if found.name == "inconclusive" else ""
            _LOG.warning("thack: %s%s · more: thack verdict %s", found.headline, why, out)


def _monitors(monitor: EvalSet, teacher: LanguageModel, student: LanguageModel) -> dict[TrainingKL, TrainingDistance]:
    """The distance to the teacher on responses that are trained on, and on others of the teacher's."""
    if Role.HUMAN not in monitor.responses:
        raise DataError(
            "the monitor has no training responses",
            hint="write its responses with `References.of(teacher=…, human=True)`",
        )
    if monitor.origin.tokenizer != teacher.tokenizer.fingerprint():
        raise MismatchError(
            "the monitor's responses are in the ids of another tokenizer than the teacher's",
            details=(f"monitor  {monitor.origin.tokenizer}", f"teacher  {teacher.tokenizer.fingerprint()}"),
            hint="write its responses with `References.of(teacher=…, human=True)`",
        )
    writers = {TrainingKL.MONITOR: Role.HUMAN, TrainingKL.FRESH: Role.TEACHER}
    written = {name: monitor.sequences(role) for name, role in writers.items() if role in monitor.responses}
    if teacher.tokenizer.fingerprint() == student.tokenizer.fingerprint():
        width = common_width(student.tokenizer.size, student=student.vocab_size, teacher=teacher.vocab_size)
        return {name: FixedKL(sequences, teacher, width) for name, sequences in written.items()}
    compare = cell_distance(teacher, student, monitor)
    return {name: compare(sequences) for name, sequences in written.items()}
