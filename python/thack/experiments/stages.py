"""A stage is a directory that is named by the content of its inputs: it is computed once, then reused.

The directory follows from the stage's settings and from the names of the stages upstream, so a whole experiment is
known before anything runs. Another setting is another name, and never overwrites anything. A stage that was
interrupted resumes if its work can, since its name is the same. `stage.json` is written last: a stage that has it is
complete.

Only settings that differ from their defaults go into the name: a setting that a later version adds renames no stage.
`stage.json` holds all of them, so that a default that has changed since is noticed.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thack.config import to_dict
from thack.errors import MismatchError, ThackError
from thack.experiments.costs import Cost
from thack.files import canonical_json, digest, flattened, write_json
from thack.reading import read_json
from thack.runtime.lock import locked
from thack.runtime.preemption import interruptible, is_withdrawn, undisturbed
from thack.runtime.progress import Progress
from thack.schema.experiment import STAGE_FILE, SpentTime, StageRecord

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Work = Callable[[Path, Progress], object]  # picklable: a worker process may do it

#: Settings that a later version added with another default: the value that computes what was computed before them.
_AS_BEFORE: Mapping[str, object] = {"max_share": 1.0}
#: Settings that name a place. What is there counts by its content, as a stage upstream or an input.
PLACES = ("out", "student", "teacher", "oracle", "eval_data", "cache", "model", "tokenizer", "path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One directory: what is computed into it, from which other stages, and what that costs."""

    name: str
    path: Path
    key: str  # digest of the name and of everything that goes in; part of the key of every stage downstream
    needs: tuple[Stage, ...]  # upstream
    work: Work
    inputs: Mapping[str, object]
    settings: Mapping[str, object]  # by dotted key, defaults included
    cost: Cost  # an estimate

    @property
    def kind(self) -> str:
        """Its name, which all stages of one kind share; `run` for the runs of cells, which have names of their own."""
        return "run" if self.path.parent.name == "runs" else self.name

    @property
    def is_complete(self) -> bool:
        """Whether it has run to its end."""
        return (self.path / STAGE_FILE).exists()

    def record(self) -> StageRecord:
        """stage.json of a complete stage.

        Raises:
            DataError: it is not there, or was written by another version.
        """
        path = self.path / STAGE_FILE
        return StageRecord.parse(read_json(path), str(path))

    def run(self, progress: Progress) -> None:
        """Do the work unless it is complete; of two processes that want the same stage, one does it."""
        with interruptible(), locked(self.path, progress):
            if self.is_complete:
                return
            began = _clock() - self._earlier()  # as if it had not been interrupted
            try:
                self.work(self.path, progress)
            except BaseException:
                with undisturbed(), suppress(OSError, ThackError):  # a full disk: the cause of the end matters more
                    if not is_withdrawn():
                        write_json(self._spent, (_clock() - began).dump())
                raise
            took = _clock() - began
            record = StageRecord(
                name=self.name,
                key=self.key,
                seconds=round(took.seconds, 3),
                cpu_seconds=round(took.cpu_seconds, 3),
                operations=self.cost.operations,
                inputs=self.inputs,
                settings=self.settings,
            )
            write_json(self.path / STAGE_FILE, record.dump())
            self._spent.unlink(missing_ok=True)

    @property
    def _spent(self) -> Path:
        """Beside the directory, which the work may want to be absent."""
        return self.path.with_name(f".{self.path.name}.spent")

    def _earlier(self) -> SpentTime:
        """What starts took that did not complete it. That of a start that was killed is not known."""
        if not self._spent.exists():
            return SpentTime()
        return SpentTime.parse(read_json(self._spent), str(self._spent))

    def check(self) -> None:
        """Refuse a complete stage that was computed when a setting had another default.

        Raises:
            MismatchError: with every setting that has changed.
        """
        before = self.record().settings
        changed = [
            f"{key}  {before[key]!r} then, {value!r} now"
            for key, value in self.settings.items()
            if key in before and before[key] != value
        ]
        if changed:
            hint = "give another `out`"
            raise MismatchError(f"{self.path} was computed with other defaults", details=changed, hint=hint)


def plan_stage(
    folder: Path,
    name: str,
    work: Work,
    *,
    needs: Iterable[Stage] = (),
    settings: DataclassInstance | None = None,
    inputs: Mapping[str, object] | None = None,
    cost: Cost | None = None,
) -> Stage:
    """A stage under `folder`, named by its inputs, its settings and the stages upstream.

    Args:
        folder: Where its directory is.
        name: The beginning of the directory's name.
        work: Called with the directory and a progress; resumes what an interrupted call has left there.
        needs: The stages upstream.
        settings: Of the work; only those that differ from their defaults count for the name.
        inputs: What else goes in: plain values, for JSON.
        cost: An estimate, for a dry run.
    """
    upstream = tuple(needs)
    content: dict[str, object] = {"upstream": [stage.key for stage in upstream], **(inputs or {})}
    leaves: dict[str, object] = {}
    if settings is not None:
        content["settings"] = chosen(settings)
        leaves = {key: value for key, value in flattened(to_dict(settings)).items() if _counts(key)}
    key = digest(canonical_json({"name": name, "inputs": content}))
    return Stage(
        name=name,
        path=folder / f"{name}-{key.removeprefix('sha256:')[:10]}",
        key=key,
        needs=upstream,
        work=work,
        inputs=content,
        settings=leaves,
        cost=cost or Cost(),
    )


def _counts(key: str) -> bool:
    return key.rpartition(".")[2] not in PLACES


def chosen(settings: DataclassInstance) -> dict[str, object]:
    """The settings that differ from their defaults, nested, without the places."""
    return _changes(settings, type(settings)())


def with_upstream(stages: Iterable[Stage]) -> list[Stage]:
    """These stages and everything upstream of them: each once, after what it needs."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found:
            for upstream in stage.needs:
                visit(upstream)
            found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def _changes(settings: DataclassInstance, default: DataclassInstance) -> dict[str, object]:
    found: dict[str, object] = {}
    plain = to_dict(settings)
    for field in dataclasses.fields(settings):
        value, usual = getattr(settings, field.name), getattr(default, field.name)
        if field.name in PLACES:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if inner := _changes(value, usual):
                found[field.name] = inner
        elif value != _AS_BEFORE.get(field.name, usual):
            found[field.name] = plain[field.name]
    return found


def _clock() -> SpentTime:
    """Now, from some moment on; processor time is that of this process, all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return SpentTime(seconds=time.monotonic(), cpu_seconds=used.ru_utime + used.ru_stime)
