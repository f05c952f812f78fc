"""The directory of one run: settings, environment, logs, checkpoints, and how it ended.

config.toml  environment.json  manifest.json  STATUS.json  metrics.jsonl  per_prompt.jsonl
checkpoints/step_000500/…  model/
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thack import config
from thack.errors import DataError, MismatchError, UsageError
from thack.files import atomic_directory, claim_output, flattened, read_json, write_json, write_text
from thack.runtime import runlog
from thack.runtime.environment import environment
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import Progress
from thack.runtime.runlog import RunLog
from thack.runtime.status import read_status, recorded
from thack.runtime.trackers import Mirror
from thack.training.checkpoint import COMMIT, checkpoints, latest_checkpoint, remove_remains, step_of

# Settings that a resumed run may change: they do not change what it computes.
_FREE = (
    "out",
    "checkpoint.",
    "parallel.",
    "profile",
    "tracker",
    "memory.checkpoint_activations",
    "memory.compile",
)
# Facts of a run that another machine may change.
_OF_THE_PLACE = ("origins.", "dtype", "teacher_dtype", "ranks")
# Files of a checkpoint that are not part of the model.
_NOT_MODEL = (COMMIT, "trainer.json", "optimizer.safetensors", "responses.json")


class RunDirectory:
    """Claimed by `kind` of run ("sft", "distill"); only the first rank writes, and it looks for all of them."""

    def __init__(self, path: Path, settings: Any, kind: str, group: ProcessGroup = ALONE) -> None:
        self.path = path
        self.settings = settings
        self.kind = kind
        self.group = group
        self.writes = group.is_first
        self.log: RunLog | None = None
        self.per_prompt: RunLog | None = None
        self.mirror: Mirror | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def claim(self) -> None:
        """Make the directory ours; a run that has got somewhere with other settings is refused."""
        with self.group.raise_on_all_ranks():
            if self.writes:
                claim_output(self.path, "run")
                if checkpoints(self.checkpoints):
                    self._check_settings()
                else:
                    write_text(self.path / "config.toml", config.to_toml(self.settings))

    def finished(self) -> bool:
        """Whether this run is complete."""
        status = read_status(self.path)
        return self.group.broadcast_from_rank0(
            status is not None and status.state == "finished" and self.model.is_dir()
        )

    def last_step(self) -> int:
        """The step of the newest checkpoint; 0 before the first."""
        found = checkpoints(self.checkpoints)
        return step_of(found[-1]) if found else 0

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep STATUS.json true however the run ends, and close the logs."""
        with recorded(self.path, "run", step=self.last_step):
            try:
                yield
            finally:
                self.close()

    def write_facts(self, facts: Mapping[str, Any], *, resumed: bool) -> None:
        """manifest.json (what went in, by fingerprint) and environment.json.

        A resumed run whose teacher, cache, eval set or data have changed under their names is refused: it would be
        nobody's curve. What it says of the student stays: what is at hand now is a checkpoint.
        """
        if not self.writes:
            return
        manifest: dict[str, Any] = {"kind": "run", "format": 1, "command": self.kind, **facts}
        if resumed and (earlier := _manifest(self.path)):
            for group in ("models", "origins"):
                if "student" in earlier.get(group, {}):
                    manifest[group] = {**manifest[group], "student": earlier[group]["student"]}
            self._check_facts(flattened(earlier), flattened(manifest))
        write_json(self.path / "manifest.json", manifest)
        write_json(self.path / "environment.json", environment())

    def _check_facts(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        changed = [
            key for key in now if key in before and before[key] != now[key] and not key.startswith(_OF_THE_PLACE)
        ]
        if changed:
            raise MismatchError(
                f"{self.path} was started with other models or data: they changed behind the same names",
                details=[f"{key}  {before[key]!r} then, {now[key]!r} now" for key in changed],
                hint="put back what was there, or give another `out`",
            )

    def resumable(self, progress: Progress) -> Path | None:
        """The newest whole checkpoint; damaged ones are passed over with a note, and half-written ones removed.

        One rank looks, so that all go on from the same one.
        """
        found: tuple[Path | None, list[str]] = (None, [])
        with self.group.raise_on_all_ranks():
            if self.writes:
                remove_remains(self.checkpoints)
                found = latest_checkpoint(self.checkpoints)
        directory, passed_over = self.group.broadcast_from_rank0(found)
        for line in passed_over:
            progress.note(f"passed over a checkpoint that is not whole: {line}")
        if directory is not None:
            progress.note(f"going on from step {step_of(directory)} of {self.path}")
        return directory

    def open_logs(self, step: int) -> None:
        """Open the logs for a run that goes on from `step`: rows of later steps are dropped first."""
        if not self.writes:
            return
        names = getattr(self.settings, "tracker", ())
        self.mirror = Mirror(names, self.path, config.to_dict(self.settings), step)
        for name in ("metrics.jsonl", "per_prompt.jsonl"):
            path = self.path / name
            if step == 0:
                path.unlink(missing_ok=True)
            runlog.truncate_after(path, step)
        self.log = RunLog(self.path / "metrics.jsonl")
        self.per_prompt = RunLog(self.path / "per_prompt.jsonl")

    def append(self, row: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.append(row)
        if self.mirror is not None:
            self.mirror.append(row)

    def append_per_prompt(self, row: Mapping[str, Any]) -> None:
        if self.per_prompt is not None:
            self.per_prompt.append(row)

    def sync(self) -> None:
        """Make all rows durable: a checkpoint must never be newer than the rows up to it."""
        for log in (self.log, self.per_prompt):
            if log is not None:
                log.sync()

    def close(self) -> None:
        for log in (self.log, self.per_prompt):
            if log is not None:
                log.close()
        if self.mirror is not None:
            self.mirror.close()

    def publish(self, checkpoint: Path) -> Path:
        """model/: a checkpoint's model files alone, as transformers and vLLM load them."""
        if self.writes:
            with atomic_directory(self.model, replace=True) as temporary:
                for path in checkpoint.iterdir():
                    if path.name not in _NOT_MODEL:
                        _link(path, temporary / path.name)
        return self.model

    def _check_settings(self) -> None:
        earlier = config.load_settings(type(self.settings), [self.path / "config.toml"], [], {})
        before, now = flattened(config.to_dict(earlier)), flattened(config.to_dict(self.settings))
        changed = [
            key
            for key in sorted(before.keys() | now.keys())
            if not key.startswith(_FREE) and before.get(key) != now.get(key)
        ]
        if changed:
            raise UsageError(
                f"{self.path} was started with other settings",
                details=[f"{key}  {before.get(key)!r} then, {now.get(key)!r} now" for key in changed],
                hint="give another `out`, or the same settings",
            )


def _manifest(path: Path) -> dict[str, Any]:
    """What an earlier start wrote; empty where it wrote nothing."""
    file = path / "manifest.json"
    return dict(read_json(file)) if file.exists() else {}


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them: the weights need not lie there twice."""
    if source.is_dir():
        shutil.copytree(source, target)
        return
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def final_model(directory: Path) -> Path:
    """Where the model of a finished run lies; raises DataError if it is not there."""
    model = directory / "model"
    if not model.is_dir():
        raise DataError(f"{directory} holds no finished model", hint="run the same command again to finish it")
    return model
