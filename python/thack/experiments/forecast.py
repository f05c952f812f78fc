"""A dry run: what a grid would run, what its cells share, and how long that takes at a measured rate.

The rate is that of complete stages of the same kind. Before the first one, it is that of a few training steps of the
student on this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from thack.config.experiment import ExperimentSettings
from thack.experiments.costs import Cost
from thack.experiments.plan import PlannedRun
from thack.experiments.precision import SeedsNeeded, seeds_needed
from thack.experiments.probe import probe
from thack.experiments.stages import Stage, with_upstream
from thack.files import write_json
from thack.schema.experiment import PLAN_FILE, Plan, PlannedCell


@dataclass(frozen=True, slots=True, kw_only=True)
class StageKind:
    """All stages of one kind."""

    name: str
    count: int
    complete: int
    users: float  # cells that need each of them, on average
    tokens: float  # of those that are not complete
    seconds: float  # of one thread, for those that are not complete


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is left to run, and what it costs."""

    planned: tuple[PlannedRun, ...]
    kinds: tuple[StageKind, ...]
    rate: float  # floating-point operations per second of one thread
    measured_on: str
    workers: int
    seeds: tuple[SeedsNeeded, ...] = ()  # by claim, from the seeds that have run
    half_width: float = 0.0  # of the interval that they are to reach

    @property
    def tokens(self) -> float:
        """That models read or write."""
        return sum(kind.tokens for kind in self.kinds)

    @property
    def hours(self) -> float:
        """Wall time, with all workers busy."""
        return sum(kind.seconds for kind in self.kinds) / self.workers / 3600

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "cells": [_cell(planned) for planned in self.planned],
            "stages": [
                {"name": k.name, "count": k.count, "complete": k.complete, "tokens": k.tokens, "seconds": k.seconds}
                for k in self.kinds
            ],
            "tokens": self.tokens,
            "hours": self.hours,
            "workers": self.workers,
            "operations_per_second": self.rate,
            "rate_measured_on": self.measured_on,
            "half_width": self.half_width,
            "seeds": [asdict(one) for one in self.seeds],
        }


def _cell(planned: PlannedRun) -> dict[str, object]:
    return {
        "cell": planned.number,
        "arm": planned.name,
        "seed": planned.cell.seed,
        "figures": list(planned.cell.figures),
        "complete": planned.run.is_complete,
    }


def forecast(settings: ExperimentSettings, planned: Sequence[PlannedRun], workers: int) -> Forecast:
    """Count the stages that are not complete, and estimate what they cost.

    Args:
        settings: The experiment.
        planned: Its cells, as `plan` gives them.
        workers: Processes that will run stages side by side.
    """
    stages = with_upstream(stage for cell in planned for stage in cell.stages)
    complete = [stage for stage in stages if stage.is_complete]
    rate, measured_on = _rate(complete), f"{len(complete)} complete stages"
    if rate == 0:
        rate, measured_on = probe(settings), "a few training steps of the student on this machine"
    rates = {name: own for name, found in _by_kind(complete).items() if (own := _rate(found)) > 0}
    users = _users(planned)
    kinds = (_estimate(name, found, users, rates.get(name, rate)) for name, found in _by_kind(stages).items())
    return Forecast(
        planned=tuple(planned),
        kinds=tuple(kinds),
        rate=rate,
        measured_on=measured_on,
        workers=max(1, workers),
        seeds=seeds_needed(settings, planned),
        half_width=settings.half_width,
    )


def write_plan(found: Forecast, recipe: str, out: Path) -> Path:
    """cells.json for a Slurm array; a stage that several cells share is run by the first one that needs it."""
    cells = tuple(
        PlannedCell(
            cell=planned.number,
            arm=planned.name,
            seed=planned.cell.seed,
            run=planned.run.path.relative_to(out).as_posix(),
            needs=tuple(stage.path.relative_to(out).as_posix() for stage in with_upstream(planned.run.needs)),
        )
        for planned in found.planned
    )
    write_json(out / PLAN_FILE, Plan(recipe=recipe, cells=cells).dump())
    return out / PLAN_FILE


def _by_kind(stages: Iterable[Stage]) -> dict[str, list[Stage]]:
    found: dict[str, list[Stage]] = {}
    for stage in stages:
        found.setdefault(stage.kind, []).append(stage)
    return found


def _users(planned: Sequence[PlannedRun]) -> Mapping[str, int]:
    """How many cells need each stage."""
    count: dict[str, int] = {}
    for cell in planned:
        for stage in with_upstream(cell.stages):
            count[stage.key] = count.get(stage.key, 0) + 1
    return count


def _estimate(name: str, stages: Sequence[Stage], users: Mapping[str, int], rate: float) -> StageKind:
    missing = [stage for stage in stages if not stage.is_complete]
    total = sum((stage.cost for stage in missing), Cost())
    return StageKind(
        name=name,
        count=len(stages),
        complete=len(stages) - len(missing),
        users=sum(users[stage.key] for stage in stages) / len(stages),
        tokens=total.tokens,
        seconds=total.operations / rate,
    )


def _rate(complete: Sequence[Stage]) -> float:
    """Operations per second of these stages; 0 if none of them has any."""
    timed = [(stage.cost.operations, stage.record().cpu_seconds) for stage in complete if stage.cost.operations]
    seconds = sum(took for _, took in timed)
    return sum(operations for operations, _ in timed) / seconds if seconds else 0.0
