"""The directory of one run: settings, environment, logs, checkpoints, and its status.

config.toml  environment.json  manifest.json  STATUS.json  metrics.jsonl  per_prompt.jsonl  samples.jsonl
held_out.jsonl
checkpoints/step_000500/…  model/  best/
sft/  the same files, of the plain fine-tuning beside a distillation (`baseline = sft`)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import gmtime, strftime

import torch

from thack import config
from thack.config import DistillSettings, SftSettings
from thack.errors import DataError, MismatchError, ModelError, UsageError
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.samples import write_prompts
from thack.files import (
    atomic_directory,
    claim_output,
    flattened,
    write_json,
    write_text,
)
from thack.models.checkpoint import cast_directory, weights_dtype
from thack.models.hub import locate
from thack.reading import read_json
from thack.runtime import runlog
from thack.runtime.environment import environment
from thack.runtime.lock import locked
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import Progress
from thack.runtime.remains import remove_remains_in
from thack.runtime.runlog import RunLog
from thack.runtime.status import read_status, recorded
from thack.runtime.trackers import Mirror
from thack.schema.metric_rows import GuardRow, MetricsRow, PerPromptRow
from thack.schema.run import SUPERVISED, Command, Manifest, RunFacts
from thack.schema.samples import SAMPLES_FILE, SampleRow
from thack.training.checkpoint import COMMIT, checkpoints, latest_checkpoint, step_of
from thack.training.moved import check_first_model, moved

# Settings that a resumed run may change: they do not change what it computes, but for rounding.
_FREE = (
    "out",
    "baseline",
    "check_alignment",
    "checkpoint.",
    "evaluation.batch_size",
    "micro_batch_size",
    "parallel.",
    "profile",
    "source.batch_size",
    "tracker",
    "memory.checkpoint_activations",
    "memory.compile",
)
# Files of a checkpoint that are not part of the model.
_NOT_MODEL = (COMMIT, "trainer.json", "optimizer.safetensors", "responses.json")


class RunDirectory:
    """The files of a run by `command`. Only the first rank writes, and it reads for all of them."""

    def __init__(
        self,
        settings: SftSettings | DistillSettings,
        command: Command,
        group: ProcessGroup = ALONE,
        name: str = "",
        *,
        within: RunDirectory | None = None,
    ) -> None:
        """`name` stands before the progress bar; empty: the directory's own. `within`: the run that this is part of."""
        self.path = settings.out
        self.asked_in: tuple[Path, ...] = (self.path, *(within.asked_in if within else ()))  # for STOP and SAVE
        self.name = name or settings.out.name
        self.settings = settings
        self.command = command
        self.group = group
        self.writes = group.is_first
        self.log: RunLog | None = None
        self.per_prompt: RunLog | None = None
        self.samples: RunLog | None = None
        self.mirror: Mirror | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def best(self) -> Path:
        """The student at its lowest proxy."""
        return self.path / "best"

    @property
    def fresh(self) -> Path:
        """The sets of responses that a guard added."""
        return self.path / "fresh"

    @property
    def supervised(self) -> Path:
        """The run of plain fine-tuning beside a distillation."""
        return self.path / SUPERVISED

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Until the block ends, no other start of a command writes here. The first rank holds the lock for all.

        Raises:
            ThackError: several ranks wait for this one, and another start that runs has not ended after ten seconds.
        """
        with ExitStack() as stack:
            with self.group.raise_on_all_ranks():
                if self.writes:
                    stack.enter_context(locked(self.path, progress, patience_s=self.group.rank.patience_s))
            yield

    def claim(self) -> None:
        """Take the directory for this run.

        Raises:
            UsageError: it holds other files, or the checkpoints or the model of a run with other settings.
        """
        with self.group.raise_on_all_ranks():
            if self.writes:
                claim_output(self.path, "run")
                if checkpoints(self.checkpoints) or self._is_finished():
                    self._check_settings()
                else:
                    write_text(self.path / "config.toml", config.to_toml(self.settings))

    def finished(self) -> bool:
        """Whether this run is complete."""
        return self.group.broadcast_from_rank0(self._is_finished())

    def _is_finished(self) -> bool:
        status = read_status(self.path)
        return status is not None and status.state == "finished" and self.model.is_dir()

    def last_step(self) -> int:
        """The step of the newest checkpoint, or of a finished run without any; 0 before the first."""
        if found := checkpoints(self.checkpoints):
            return step_of(found[-1])
        status = read_status(self.path)
        return (status.step or 0) if status is not None and self._is_finished() else 0

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep STATUS.json true however the run ends, and close the logs."""
        with recorded(self.path, "run", step=self.last_step, kept=self._kept):
            try:
                yield
            finally:
                self.close()

    def earlier_facts(self, *, resumed: bool) -> RunFacts | None:
        """What the manifest of a resumed run says it began with; None for a new run. One rank reads for all."""
        found = None
        with self.group.raise_on_all_ranks():
            place = self.path / "manifest.json"
            if self.writes and resumed and place.exists():
                found = Manifest.parse(read_json(place), str(place)).facts
        return self.group.broadcast_from_rank0(found)

    def _kept(self) -> str:
        step = self.last_step()
        return f"step {step} in {self.path}" if step else ""

    def write_facts(self, facts: RunFacts, *, resumed: bool) -> None:
        """Write manifest.json and environment.json.

        Raises:
            MismatchError: a resumed run's teacher, cache, evaluation set or data are no longer those of its manifest.
                Its curve would mix two experiments.
        """
        if not self.writes:
            return
        place = self.path / "manifest.json"
        facts = replace(facts, started=strftime("%Y-%m-%d %H:%M", gmtime()))
        if resumed and place.exists():
            earlier = Manifest.parse(read_json(place), str(place)).facts
            if changes := earlier.changes(facts):
                raise MismatchError(
                    f"{self.path} was started with other models or data: the same names now hold others",
                    details=[f"{key}  {before!r} then, {now!r} now" for key, (before, now) in changes.items()],
                    hint="restore the earlier ones, or give another `out`",
                )
            facts = facts.with_student_of(earlier)
            write_text(self.path / "config.toml", config.to_toml(self.settings))  # with the paths of today
        write_json(place, Manifest(command=self.command, facts=facts).dump())
        write_json(self.path / "environment.json", environment().dump())

    def resumable(self, progress: Progress) -> Path | None:
        """The newest complete checkpoint; damaged ones are skipped with a note, incomplete ones removed.

        One rank looks, so that all resume from the same one.
        """
        found: tuple[Path | None, list[str]] = (None, [])
        with self.group.raise_on_all_ranks():
            if self.writes:
                remove_remains_in(self.checkpoints)
                found = latest_checkpoint(self.checkpoints)
        directory, skipped = self.group.broadcast_from_rank0(found)
        for line in skipped:
            progress.note(f"skipped a damaged checkpoint: {line}")
        if directory is not None:
            progress.note(f"resuming from step {step_of(directory)} of {self.path}")
        return directory

    def open_logs(self, step: int) -> None:
        """Open the logs of a run that resumes from `step`: rows of later steps are dropped first.

        At step 0 so is what an earlier start, perhaps with other settings, has left to be read.
        """
        if not self.writes:
            return
        for folder in (self.fresh, self.best) if step == 0 else ():
            shutil.rmtree(folder, ignore_errors=True)
        self.mirror = Mirror(self.settings.tracker, self.path, config.to_dict(self.settings), step)
        for name in ("metrics.jsonl", "per_prompt.jsonl", SAMPLES_FILE):
            path = self.path / name
            if step == 0:
                path.unlink(missing_ok=True)
            runlog.truncate_after(path, step)
        self.log = RunLog(self.path / "metrics.jsonl")
        self.per_prompt = RunLog(self.path / "per_prompt.jsonl")
        self.samples = RunLog(self.path / SAMPLES_FILE)

    def append(self, row: MetricsRow | GuardRow) -> None:
        """A line of metrics.jsonl, and of the trackers."""
        if self.log is not None:
            self.log.append(row.dump())
        if self.mirror is not None:
            self.mirror.append(row.dump())

    def append_per_prompt(self, row: PerPromptRow) -> None:
        """A line of per_prompt.jsonl."""
        if self.per_prompt is not None:
            self.per_prompt.append(row.dump())

    def append_samples(self, rows: Sequence[SampleRow]) -> None:
        """Lines of samples.jsonl."""
        if self.samples is not None:
            for row in rows:
                self.samples.append(row.dump())

    def write_prompts(self, eval_set: EvalSet) -> None:
        """held_out.jsonl, of the run's evaluation set."""
        if self.writes:
            write_prompts(self.path, eval_set)

    def sync(self) -> None:
        """Make all rows durable: a checkpoint must never be newer than the rows up to it."""
        for log in (self.log, self.per_prompt, self.samples):
            if log is not None:
                log.sync()

    def close(self) -> None:
        """Close all of them, whatever one of them raises."""
        with ExitStack() as stack:
            for log in (self.mirror, self.samples, self.per_prompt, self.log):
                if log is not None:
                    stack.callback(log.close)

    def publish(self, checkpoint: Path, target: Path | None = None) -> Path:
        """`target`, or model/: a checkpoint's model files alone, as transformers and vLLM load them.

        Weights are in the number format of the files that the run started from; checkpoints keep float32 to resume.
        """
        if self.writes:
            dtype = self._first_dtype()
            with atomic_directory(target or self.model, replace=True) as temporary:
                for path in checkpoint.iterdir():
                    if path.name not in _NOT_MODEL:
                        _link(path, temporary / path.name)
                if dtype is not None:
                    cast_directory(temporary, dtype)
        return self.model

    def _first_dtype(self) -> torch.dtype | None:
        """The format of the model that the run started from, if it is a half precision; None where it is not there."""
        if self.settings.lora.rank:
            return None  # an adapter stays as it was trained
        first = self.settings.student if isinstance(self.settings, DistillSettings) else self.settings.model
        with suppress(ModelError):
            return weights_dtype(locate(first).directory) if first else None
        return None

    def _check_settings(self) -> None:
        earlier = config.load_settings(type(self.settings), [self.path / "config.toml"], [], {})
        before, now = flattened(config.to_dict(earlier)), flattened(config.to_dict(self.settings))
        places = (
            [] if self._is_finished() else moved(before, now)
        )  # a finished run reads nothing that could be compared
        changed = [
            key
            for key in sorted(before.keys() | now.keys())
            if not key.startswith(_FREE) and key not in places and before.get(key) != now.get(key)
        ]
        if changed:
            raise UsageError(
                f"{self.path} was started with other settings",
                details=[f"{key}  {before.get(key)!r} then, {now.get(key)!r} now" for key in changed],
                hint="give another `out`, or the same settings",
            )
        check_first_model(self.path, places, now)


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them, which stores the weights once; else a copy."""
    if source.is_dir():
        shutil.copytree(source, target)
        return
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def final_model(directory: Path) -> Path:
    """The model of a finished run.

    Raises:
        DataError: the run is not finished.
    """
    model = directory / "model"
    if not model.is_dir():
        raise DataError(f"{directory} holds no finished model", hint="run the same command again to finish it")
    return model
