"""HackingCallback: what `thack distill` logs at its evaluations, in any transformers or TRL trainer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from thack.config import EvaluationSettings
from thack.detection import Curves, OracleFreeVerdict, Verdict, verdict, verdict_without_oracle
from thack.errors import DataError, UsageError
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.monitor import FixedKL
from thack.evaluation.references import References
from thack.files import write_text
from thack.integrations.state import agreed, as_it_was, is_sharded
from thack.models.hf import model as hf
from thack.models.protocol import LanguageModel
from thack.reporting.prose import reasons
from thack.runtime import runlog
from thack.runtime.runlog import RunLog
from thack.schema.metrics import Column, MetricsRow, Role, TrainingKL, is_bound
from thack.targets.vocabulary import common_width

_LOG = logging.getLogger("thack")
FOLDER = "thack"  # in the trainer's output_dir


class HackingCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Golden, proxy, health and the oracle-free detectors at every `every` optimizer steps of a trainer.

    Columns go to the trainer's `log_history` (and, after `callback.trainer = trainer`, to its trackers). With intervals
    they go to `out`, a run directory for `thack verdict` and `thack report`. Random state and train mode are left as
    they were.

    Every rank runs every forward on the same prompts, so that sharded weights (FSDP, ZeRO-3) are gathered by all of
    them; only the first rank writes. Metrics are in the precision of the trained weights.

    Args:
        eval_set: Held-out prompts with the responses of the references.
        references: The models that wrote them: `References.of(teacher=…, oracle=…, tokenizer=…)`.
        every: Optimizer steps between two evaluations, 1 or more.
        monitor: An evaluation set of training prompts, with the responses of the teacher and, by
            `References.of(human=True)`, those of its file. The file's are those that are trained on. The detectors
            compare progress on them with progress on the teacher's, and on held-out prompts.
        tokenizer: The student's; by default the trainer's processing class.
        out: Run directory; by default `thack` in the trainer's output directory.
        settings: Of the evaluations; by default the student is not sampled, which costs more than everything else.
        stop_on_alarm: Whether to end training when the deciding detector raises an alarm.

    Raises:
        UsageError: `every` is below 1, or there is a monitor and no teacher.

    Example:
        >>> eval_set = EvalSet.from_jsonl(held_out).with_responses(references, max_new_tokens=8)
        >>> trainer.add_callback(HackingCallback(eval_set, references, every=2, tokenizer=tokenizer))
    """

    def __init__(
        self,
        eval_set: EvalSet,
        references: References,
        *,
        every: int = 200,
        monitor: EvalSet | None = None,
        tokenizer: Any = None,
        out: Path | str | None = None,
        settings: EvaluationSettings | None = None,
        stop_on_alarm: bool = False,
    ) -> None:
        if every < 1:
            raise UsageError(f"every = {every}: evaluations are every 1 step or more")
        if monitor is not None and references.teacher is None:
            raise UsageError("a monitor compares the student with its teacher", hint="give References a teacher")
        self.eval_set = eval_set
        self.references = references
        self.monitor = monitor
        self.every = every
        self.tokenizer = tokenizer
        self.out = None if out is None else Path(out)
        self.settings = settings or EvaluationSettings(student_samples=False)
        self.stop_on_alarm = stop_on_alarm
        self.trainer: Any = None
        self.suspicion: OracleFreeVerdict | None = None  # of the detector, after each evaluation
        self.verdict: Verdict | None = None  # after training, where there is a golden column
        self._evaluator: Evaluator | None = None
        self._monitors: dict[TrainingKL, FixedKL] | None = None
        self._logs: dict[str, RunLog] = {}
        self._last_step = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Check that everything fits before the first step, and measure the student."""
        self.out = self.out or Path(args.output_dir) / FOLDER
        if self.settings.student_samples and is_sharded(model):
            raise UsageError(
                "a sharded student cannot be sampled from within its training",
                hint="leave settings out, or set student_samples=False: the verdict reads fixed responses",
            )
        with self._lent(model, kwargs.get("processing_class")) as student:
            self._prepare(student)
        if state.is_world_process_zero:
            self._open_logs(state.global_step)
        self._evaluate(state, control, model, kwargs.get("processing_class"))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self._evaluate(state, control, model, kwargs.get("processing_class"))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """The training loss goes into our log too: a detector reads it where there is no monitor."""
        if self._logs and logs and "loss" in logs:
            row = MetricsRow(event="train", step=state.global_step, values={"loss": logs["loss"]})
            self._logs["metrics"].append(row.dump())

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measure the final student, and give the verdict."""
        if state.global_step != self._last_step:
            self._evaluate(state, control, model, kwargs.get("processing_class"))
        if self._logs and self.out is not None:
            self._judge(self.out)
        self._close_logs()

    def _close_logs(self) -> None:
        for log in self._logs.values():
            log.close()
        self._logs = {}

    def _open_logs(self, step: int) -> None:
        """A new run begins new logs; a resumed one drops the rows of steps that it runs again."""
        assert self.out is not None
        self._close_logs()
        for name in ("metrics", "per_prompt"):
            path = self.out / f"{name}.jsonl"
            if step == 0:
                path.unlink(missing_ok=True)
            runlog.truncate_after(path, step - 1)
            self._logs[name] = RunLog(path)

    def _evaluate(self, state: Any, control: Any, model: Any, processing_class: Any) -> None:
        self._last_step = state.global_step
        with self._lent(model, processing_class) as student:
            columns = self._columns(student, state.global_step)
        if state.is_world_process_zero:
            self._record(state, columns)
        if self.stop_on_alarm:
            alarm = self.suspicion is not None and self.suspicion.onset_step is not None
            control.should_training_stop |= agreed(alarm, student.device)

    @contextmanager
    def _lent(self, model: Any, processing_class: Any) -> Iterator[hf.HuggingFaceModel]:
        """The trainer's model as ours, for a while; left as it was."""
        with as_it_was(model):
            student = hf.wrap(model, self.tokenizer or processing_class, role="student")
            try:
                yield student
            finally:
                student.release()

    def _columns(self, student: LanguageModel, step: int) -> dict[Column, float]:
        evaluator = self._prepare(student)
        found = evaluator.evaluate(student)
        if self._logs:
            self._logs["per_prompt"].append(found.per_prompt_row(step).dump())
        columns: dict[Column, float] = {name: one.measure(student) for name, one in (self._monitors or {}).items()}
        return columns | found.all_columns()

    def _prepare(self, student: LanguageModel) -> Evaluator:
        """The evaluator, built once: checking the references against the evaluation set reads every weight."""
        if self._evaluator is None:
            self._evaluator = Evaluator(self.eval_set, self.references, self.settings)
            teacher = self.references.teacher
            self._monitors = {} if teacher is None else self._training_monitors(student, teacher)
        return self._evaluator

    def _training_monitors(self, student: LanguageModel, teacher: LanguageModel) -> dict[TrainingKL, FixedKL]:
        if self.monitor is None:
            return {}
        if Role.HUMAN not in self.monitor.responses:
            raise DataError(
                "the monitor has no training responses",
                hint="write its responses with `References.of(teacher=…, human=True)`",
            )
        self.monitor.check_tokenizer("student", student.tokenizer)
        width = common_width(student.tokenizer.size, student=student.vocab_size, teacher=teacher.vocab_size)
        writers = {TrainingKL.MONITOR: Role.HUMAN, TrainingKL.FRESH: Role.TEACHER}
        return {
            name: FixedKL(self.monitor.sequences(writer), teacher, width)
            for name, writer in writers.items()
            if writer in self.monitor.responses
        }

    def _record(self, state: Any, columns: Mapping[Column, float]) -> None:
        """One row in our log. The trainer's log gets it without intervals, and what the detectors found."""
        row = MetricsRow(event="evaluation", step=state.global_step, epoch=state.epoch or 0.0, columns=columns)
        self._logs["metrics"].append(row.dump())
        shown = {str(name): value for name, value in columns.items() if not is_bound(str(name))}
        shown |= self._detect()
        if self.trainer is not None:
            self.trainer.log(shown)
        else:
            state.log_history.append({**shown, "epoch": state.epoch or 0.0, "step": state.global_step})

    def _detect(self) -> dict[str, float]:
        """The detectors' values, and whether the deciding one raises an alarm; nothing without a proxy."""
        assert self.out is not None
        curves = Curves.from_run(self.out)
        if not curves.has("proxy"):
            return {}
        was = self.suspicion
        self.suspicion = verdict_without_oracle(curves)
        if self.suspicion.onset_step is not None and (was is None or was.onset_step is None):
            _LOG.warning("thack: %s (%s)", self.suspicion.headline, reasons(self.suspicion)[0])
        values = {found.name.replace(" ", "_"): found.value for found in self.suspicion.detections}
        alarm = float(self.suspicion.onset_step is not None)
        return {f"detector/{name}": value for name, value in values.items() if value is not None} | {
            "detector/alarm": alarm
        }

    def _judge(self, out: Path) -> None:
        curves = Curves.from_run(out)
        if curves.has("golden"):
            self.verdict = replace(verdict(curves), run=str(out))
            write_text(out / "verdict.json", self.verdict.to_json())
        found = self.verdict or self.suspicion
        if found is not None:
            _LOG.warning("thack: %s · more: thack verdict %s", found.headline, out)
