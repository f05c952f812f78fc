"""`thack experiment`: the cells of a grid, made, judged and told; a crashed one never spoils another."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from thack.cache.format.layout import bytes_per_token
from thack.config import load, to_dict, to_toml
from thack.config.experiment import ExperimentSettings
from thack.detection import Curves, Verdict, verdict
from thack.errors import ThackError, UsageError
from thack.experiments.cells import Cell, base_arm, cells, chosen_figures, name_of
from thack.experiments.pipeline import Pipeline
from thack.experiments.roles import check_decided, check_roles
from thack.experiments.stages import Stage, walk
from thack.experiments.workers import Failures, make_all
from thack.files import claim_output, read_json, write_json, write_text
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded
from thack.schema.targets import TargetSpec

SUMMARY = "experiment.json"
RECIPES = ("demo", "quick", "laptop", "gpu", "paper")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A cell, its name among the arms, and its run."""

    number: int
    cell: Cell
    name: str
    run: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a cell: finished with a verdict, failed with an error, or not made yet."""

    planned: Planned
    verdict: Verdict | None = None
    error: ThackError | None = None

    @property
    def state(self) -> str:
        return "finished" if self.verdict else "failed" if self.error else "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridResult:
    settings: ExperimentSettings
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error is not None]


def recipe(
    name: str, sets: Sequence[str] = (), files_: Sequence[Path] = (), overrides: Mapping[str, Any] | None = None
) -> ExperimentSettings:
    """A shipped recipe or a user's own TOML file, changed by further files and `key=value` settings."""
    if name in RECIPES:
        with as_file(files("thack.experiments") / "recipes" / f"{name}.toml") as path:
            return load(ExperimentSettings, [path, *files_], sets, overrides)
    own = Path(name)
    if not own.is_file():
        raise UsageError(
            f"there is no recipe {name!r}, and no file of that name",
            hint=f"recipes: {', '.join(RECIPES)}; or the path of a TOML file",
        )
    return load(ExperimentSettings, [own, *files_], sets, overrides)


def plan(settings: ExperimentSettings, out: Path) -> list[Planned]:
    """Every cell with its run; nothing is made."""
    check_roles(settings)
    check_decided(settings)
    pipeline = Pipeline(settings, out)
    base = base_arm(settings)
    return [
        Planned(number=number, cell=cell, name=name_of(cell.arm, base), run=pipeline.run(cell))
        for number, cell in enumerate(cells(settings))
    ]


def run_grid(
    settings: ExperimentSettings, out: Path, progress: Progress = SILENT, *, only: int | None = None
) -> GridResult:
    """Make the cells that are not there (`only`: that one), judge those that are, and write experiment.json."""
    started = time.monotonic()
    planned = plan(settings, out)
    if only is not None and not 0 <= only < len(planned):
        raise UsageError(f"there is no cell {only}", hint=f"cells are 0 to {len(planned) - 1}")
    claim_output(out, "experiment")
    write_text(out / "config.toml", to_toml(settings))
    wanted = planned if only is None else [planned[only]]
    # One STATUS.json cannot speak for all tasks of an array: a task that runs one cell leaves it alone.
    with recorded(out, "experiment") if only is None else nullcontext():
        for stage in walk(cell.run for cell in wanted):
            if stage.made:
                stage.check()
        failures = make_all([cell.run for cell in wanted], progress)
        outcomes = tuple(_outcome(cell, failures) for cell in planned)
        if only is None:
            summarise(settings, out, outcomes)
    return GridResult(settings=settings, outcomes=outcomes, seconds=time.monotonic() - started)


def look(settings: ExperimentSettings, out: Path) -> GridResult:
    """What is there so far, judged and summarised; nothing is made."""
    outcomes = tuple(_outcome(cell, {}) for cell in plan(settings, out))
    summarise(settings, out, outcomes)
    return GridResult(settings=settings, outcomes=outcomes, seconds=0.0)


def _outcome(planned: Planned, failures: Failures) -> Outcome:
    if not planned.run.made:
        return Outcome(planned=planned, error=failures.get(planned.run.key))
    found = verdict(Curves.from_run(planned.run.path))
    write_text(planned.run.path / "verdict.json", found.to_json())
    return Outcome(planned=planned, verdict=found)


def summarise(settings: ExperimentSettings, out: Path, outcomes: Sequence[Outcome]) -> None:
    """experiment.json: every cell with its place on the axes, what it needs, and what became of it."""
    shared = [stage for stage in walk(o.planned.run for o in outcomes) if stage.made]
    records = [stage.record() for stage in shared]
    write_json(
        out / SUMMARY,
        {
            "kind": "experiment",
            "title": settings.title,
            "figures": list(chosen_figures(settings)),
            "base": asdict(base_arm(settings)),
            "seeds": list(settings.seeds),
            "runs": [_row(outcome, out) for outcome in outcomes],
            "seconds": round(sum(record["seconds"] for record in records), 1),
            "cpu_seconds": round(sum(record["cpu_seconds"] for record in records), 1),
            "stages": _by_name(shared, records),
            "settings": to_dict(settings),
        },
    )


def _row(outcome: Outcome, out: Path) -> dict[str, Any]:
    planned = outcome.planned
    record = planned.run.record() if planned.run.made else {}
    return {
        "cell": planned.number,
        "path": planned.run.path.relative_to(out).as_posix(),
        "arm": planned.name,
        "seed": planned.cell.seed,
        "figures": list(planned.cell.figures),
        "axes": asdict(planned.cell.arm),
        "state": outcome.state,
        "error": str(outcome.error) if outcome.error else None,
        "verdict": outcome.verdict.name if outcome.verdict else None,
        "bytes_per_token": _bytes_per_token(planned) if planned.run.made else None,
        "seconds": record.get("seconds"),
        "cpu_seconds": record.get("cpu_seconds"),
    }


def _bytes_per_token(planned: Planned) -> int:
    vocab_size = read_json(planned.run.path / "model" / "config.json")["vocab_size"]
    return bytes_per_token(TargetSpec.parse(planned.cell.arm.target), vocab_size)


def _by_name(stages: Sequence[Stage], records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Count and processor time of each kind of stage."""
    found: dict[str, dict[str, float]] = {}
    for stage, record in zip(stages, records, strict=True):
        kind = "run" if stage.path.parent.name == "runs" else stage.name
        entry = found.setdefault(kind, {"count": 0, "cpu_seconds": 0.0})
        entry["count"] += 1
        entry["cpu_seconds"] = round(entry["cpu_seconds"] + record["cpu_seconds"], 1)
    return found
