"""A grid of judged runs with the numbers that we choose, without a directory behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from reporting.grid_of_runs import BASE, ONLINE
from reporting.values import extent, judged, run
from thack.reporting.grid import Grid, GridArm
from thack.reporting.grid_figures import TITLES
from thack.reporting.inputs import ArmRuns
from thack.schema.experiment import ClaimResult, Effect, ExperimentArm, Summary

EFFECT = Effect(seeds=(0,), values=(0.1,), mean=0.1, low=None, high=None)


def arm(
    name: str,
    figures: Iterable[str],
    ends: Sequence[float] = (1.1, 1.2, 1.3),
    *,
    size: int | None = None,
    **axes: Any,
) -> GridArm:
    """An arm whose seeds end at `ends`, from a minimum of 1; `size` is its bytes per token."""
    runs = tuple(run(name, seed, verdict=judged(golden=extent(end=end, rise=end - 1))) for seed, end in enumerate(ends))
    point = ExperimentArm(**{**BASE, **axes})
    return GridArm(axes=point, figures=tuple(figures), runs=ArmRuns(name, runs), bytes_per_token=size)


def grid(*arms: GridArm, figures: Sequence[str], claims: Sequence[ClaimResult] = ()) -> Grid:
    summary = Summary(
        title="T",
        figures=tuple(figures),
        base=ExperimentArm(**BASE),
        seeds=(0, 1, 2),
        runs=(),
        claims=tuple(claims),
        stages=(),
        seconds=0.0,
        cpu_seconds=0.0,
        settings={},
    )
    return Grid(summary=summary, arms=arms)


OFFLINE_ARM = arm("offline", TITLES)
ONLINE_ARM = arm("online-teacher", ["F5", "F8", "fraction", "loss", "sizes"], (1.0, 1.0, 1.0), **ONLINE)
