"""A stage is a directory, named by the content of all that went into it: made once, then reused.

Where a stage lies follows from its settings and from the names of the stages it stands on, so a whole
experiment is known before anything is made. Changing a setting changes the name and never overwrites what is
there. A stage that was interrupted goes on if its work can resume, since its name is the same; `stage.json` is
written last and says that it is whole.

Only settings that differ from their defaults go into the name: a setting that a later version adds leaves
stages where they are. `stage.json` keeps all of them, so that a default that has changed since is noticed.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thack.config import to_dict
from thack.errors import MismatchError
from thack.experiments.costs import Cost
from thack.experiments.lock import held
from thack.files import canonical_json, digest, read_json, write_json
from thack.runtime.progress import Progress
from thack.schema.experiment import STAGE_FILE, StageRecord

PLACES = ("out", "student", "teacher", "oracle", "eval_data", "cache", "model", "tokenizer", "path")  # count by content


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One directory: how it is made, from which others, and where it lies."""

    name: str
    path: Path
    key: str  # what everything built on it carries on
    needs: tuple[Stage, ...]
    work: Callable[[Path, Progress], object]  # picklable: a worker process may do it
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]  # all of them, defaults included
    cost: Cost  # roughly: what a dry run counts

    @property
    def kind(self) -> str:
        """Its name, which all stages of one kind share; `run` for the runs of cells, which have names of their own."""
        return "run" if self.path.parent.name == "runs" else self.name

    @property
    def made(self) -> bool:
        return (self.path / STAGE_FILE).exists()

    def record(self) -> StageRecord:
        """stage.json of a complete stage.

        Raises:
            DataError: it is not there, or was written by another version.
        """
        path = self.path / STAGE_FILE
        return StageRecord.parse(read_json(path), str(path))

    def make(self, progress: Progress) -> None:
        """Do the work unless it is done; two processes that want the same stage do it once."""
        with held(self.path):
            if self.made:
                return
            started, spent = time.monotonic(), _cpu_s()
            self.work(self.path, progress)
            record = StageRecord(
                name=self.name,
                key=self.key,
                seconds=round(time.monotonic() - started, 3),
                cpu_seconds=round(_cpu_s() - spent, 3),
                operations=self.cost.operations,
                inputs=self.inputs,
                settings=self.settings,
            )
            write_json(self.path / STAGE_FILE, record.dump())

    def check(self) -> None:
        """Refuse a stage that was made when a setting had another default."""
        before = self.record().settings
        changed = [
            f"{key}  {before[key]!r} then, {value!r} now"
            for key, value in self.settings.items()
            if key in before and before[key] != value
        ]
        if changed:
            raise MismatchError(f"{self.path} was made with other defaults", details=changed, hint="give another `out`")


def plan_stage(
    folder: Path,
    name: str,
    work: Callable[[Path, Progress], object],
    *,
    needs: Iterable[Stage] = (),
    settings: object | None = None,
    inputs: Mapping[str, Any] | None = None,
    cost: Cost | None = None,
) -> Stage:
    """A stage under `folder`, named by its inputs, its settings and the stages it stands on."""
    upstream = tuple(needs)
    content = {"upstream": [stage.key for stage in upstream], **(inputs or {})}
    if settings is not None:
        content["settings"] = chosen(settings)
    key = digest(canonical_json({"name": name, "inputs": content}))
    return Stage(
        name=name,
        path=folder / f"{name}-{key.removeprefix('sha256:')[:10]}",
        key=key,
        needs=upstream,
        work=work,
        inputs=content,
        settings={} if settings is None else dict(_leaves(to_dict(settings))),
        cost=cost or Cost(),
    )


def chosen(settings: Any) -> dict[str, Any]:
    """The settings that differ from their defaults, less the places where inputs lie."""
    found: dict[str, Any] = _changes(settings, type(settings)())
    return found


def walk(stages: Iterable[Stage]) -> list[Stage]:
    """All stages that these stand on, and they themselves: each once, after what it needs."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found:
            for upstream in stage.needs:
                visit(upstream)
            found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def _changes(settings: Any, default: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    plain = to_dict(settings)
    for field in dataclasses.fields(settings):
        value, usual = getattr(settings, field.name), getattr(default, field.name)
        if field.name in PLACES:
            continue
        if dataclasses.is_dataclass(value):
            if inner := _changes(value, usual):
                found[field.name] = inner
        elif value != usual:
            found[field.name] = plain[field.name]
    return found


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key not in PLACES:
            yield f"{prefix}{key}", value


def _cpu_s() -> float:
    """Processor time of this process, all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
