"""A dry run: what a grid would make, what its cells share, and how long that takes at a measured rate.

The rate is that of stages of the same kind that are already there; before the first one, of a few training steps of
the student on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from thack.config.experiment import ExperimentSettings
from thack.experiments.costs import Cost
from thack.experiments.plan import PlannedRun
from thack.experiments.stages import Stage, walk
from thack.files import write_json
from thack.schema.experiment import PLAN_FILE, Plan, PlannedCell


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """All stages of one name."""

    name: str
    count: int
    made: int
    users: float  # cells that stand on each, on average
    tokens: float  # of those to be made
    seconds: float  # of one thread, for those to be made


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    planned: tuple[PlannedRun, ...]
    kinds: tuple[Kind, ...]
    rate: float  # operations per second of one thread
    measured: str  # on what
    workers: int

    @property
    def tokens(self) -> float:
        return sum(kind.tokens for kind in self.kinds)

    @property
    def hours(self) -> float:
        """Wall time, with all workers busy."""
        return sum(kind.seconds for kind in self.kinds) / self.workers / 3600

    def to_dict(self) -> dict[str, Any]:
        return {
            "cells": [
                {
                    "cell": p.number,
                    "arm": p.name,
                    "seed": p.cell.seed,
                    "figures": list(p.cell.figures),
                    "made": p.run.made,
                }
                for p in self.planned
            ],
            "stages": [
                {"name": k.name, "count": k.count, "made": k.made, "tokens": k.tokens, "seconds": k.seconds}
                for k in self.kinds
            ],
            "tokens": self.tokens,
            "hours": self.hours,
            "workers": self.workers,
            "operations_per_second": self.rate,
            "rate_measured_on": self.measured,
        }


def forecast(settings: ExperimentSettings, planned: Sequence[PlannedRun], workers: int) -> Forecast:
    """Count what is missing, and price it."""
    stages = walk(cell.run for cell in planned)
    made = [stage for stage in stages if stage.made]
    rates = _rates(made)
    measured = f"{len(made)} stages that are there"
    rate = _overall(made)
    if rate == 0:
        rate, measured = probe(settings), "a few training steps of the student on this machine"
    users = _users(planned)
    kinds: dict[str, list[Stage]] = {}
    for stage in stages:
        kinds.setdefault(stage.kind, []).append(stage)
    return Forecast(
        planned=tuple(planned),
        kinds=tuple(_price(name, found, users, rates.get(name, rate)) for name, found in kinds.items()),
        rate=rate,
        measured=measured,
        workers=max(1, workers),
    )


def write_plan(found: Forecast, recipe: str, out: Path) -> Path:
    """cells.json for a Slurm array; a stage that several cells share is run by the first one that needs it."""
    cells = tuple(
        PlannedCell(
            cell=planned.number,
            arm=planned.name,
            seed=planned.cell.seed,
            run=planned.run.path.relative_to(out).as_posix(),
            needs=tuple(stage.path.relative_to(out).as_posix() for stage in walk([planned.run])[:-1]),
        )
        for planned in found.planned
    )
    write_json(out / PLAN_FILE, Plan(recipe=recipe, cells=cells).dump())
    return out / PLAN_FILE


def _users(planned: Sequence[PlannedRun]) -> dict[str, int]:
    count: dict[str, int] = {}
    for cell in planned:
        for stage in walk([cell.run]):
            count[stage.key] = count.get(stage.key, 0) + 1
    return count


def _price(name: str, stages: Sequence[Stage], users: dict[str, int], rate: float) -> Kind:
    missing = [stage for stage in stages if not stage.made]
    total = sum((stage.cost for stage in missing), Cost())
    return Kind(
        name=name,
        count=len(stages),
        made=len(stages) - len(missing),
        users=sum(users[stage.key] for stage in stages) / len(stages),
        tokens=total.tokens,
        seconds=total.operations / rate,
    )


def _rates(made: Sequence[Stage]) -> dict[str, float]:
    """Operations per second by kind of stage."""
    found: dict[str, list[Stage]] = {}
    for stage in made:
        found.setdefault(stage.kind, []).append(stage)
    return {name: rate for name, stages in found.items() if (rate := _overall(stages)) > 0}


def _overall(made: Sequence[Stage]) -> float:
    seconds = sum(stage.record().cpu_seconds for stage in made if stage.cost.operations)
    return sum(stage.cost.operations for stage in made) / seconds if seconds else 0.0


def probe(settings: ExperimentSettings, steps: int = 4) -> float:
    """Operations per second of the student's training step, on one thread."""
    import torch

    from thack.data.tokenizer import Tokenizer
    from thack.losses import cross_entropy
    from thack.models.load import new_model

    role = replace(settings.student, model="")
    batch = _some_batch(settings)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tokenizer = Tokenizer.train(["a probe"], 258)
        model: Any = new_model(role.architecture, tokenizer, 0)
        took = []
        for _ in range(steps):
            started = monotonic()
            loss: Any = cross_entropy(model(batch), batch.labels_N).mean()
            loss.backward()
            took.append(monotonic() - started)
    finally:
        torch.set_num_threads(before)
    weights = sum(parameter.numel() for parameter in model.parameters())
    tokens = sum(len(p) + len(r) for p, r in zip(batch.prompts, batch.responses, strict=True))
    return float(6 * weights * tokens / min(took))


def _some_batch(settings: ExperimentSettings) -> Any:
    import numpy as np

    from thack.data.sequence import TokenSequence
    from thack.models.batch import Batch

    prompt = np.full(min(settings.max_prompt_tokens, 256) // 2 + 1, 5, dtype=np.int32)
    response = np.full(min(settings.max_response_tokens, 128) // 2 + 1, 6, dtype=np.int32)
    rows = range(min(settings.distill.batch_size, 32))
    return Batch.of(
        [TokenSequence(example=i, prompt_id=str(i), prompt_ids=prompt, response_ids=response) for i in rows]
    )
