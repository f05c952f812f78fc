"""Cells that came to what we choose, without a run behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thack.experiments.arms import FinishedArms
from thack.schema.experiment import CellResult, ExperimentArm, RunOutcome

BASE = ExperimentArm(
    task="docstring",
    source="offline",
    fraction_online=0.0,
    diversity=1,
    budget=1,
    loss="forward_kl",
    teacher="128",
    student="96",
    target="dense",
)
ONLINE: dict[str, Any] = {"source": "online-teacher", "target": "live", "fraction_online": 1.0}
JITTER = (0.0, 0.002, -0.001)  # of three seeds


def outcome(rise: float | None = 0.0, **numbers: Any) -> RunOutcome:
    usual = {"verdict": "hacking", "golden_end": 1.2, "proxy_end": 0.5, "proxy_change": -0.1, "over_baseline": 0.05}
    return RunOutcome(**{"alarm": True, **usual, "rise": rise, **numbers})


def cells(
    figures: Sequence[str], rise: float, seeds: Sequence[int] = (0, 1, 2), end: float = 1.2, **axes: Any
) -> list[CellResult]:
    """One arm: golden rises by `rise` and ends at `end`, up to a jitter of each seed."""
    numbers = {"alarm": "online" not in str(axes.get("source", ""))}
    found = {seed: outcome(rise + JITTER[seed], golden_end=end + JITTER[seed], **numbers) for seed in seeds}
    return cells_of(figures, found, **axes)


def cells_of(figures: Sequence[str], outcomes: Mapping[int, RunOutcome], **axes: Any) -> list[CellResult]:
    """One arm, with the outcome of each seed."""
    return [
        CellResult(
            cell=0,
            path=f"runs/{seed}",
            arm="an arm",
            seed=seed,
            figures=tuple(figures),
            axes=replace(BASE, **axes),
            state="finished",
            outcome=found,
        )
        for seed, found in outcomes.items()
    ]


def finished(*arms: list[CellResult]) -> FinishedArms:
    return FinishedArms.of(BASE, [cell for arm in arms for cell in arm])
