"""A grid on disk that nobody trained: experiment.json and synthetic runs with the rises we choose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.synthetic import SHAPES, Noise, Shape, write_run
from thack.detection import Curves, verdict, verdict_without_oracle
from thack.experiments.arms import FinishedArms
from thack.experiments.claims import claims
from thack.experiments.outcome import run_outcome
from thack.schema.experiment import SUMMARY_FILE, CellResult, ExperimentArm, StageCosts, Summary

NOISE = Noise(prompt=0.05, checkpoint=0.002)
BASE: dict[str, Any] = {
    "task": "docstring",
    "source": "offline",
    "fraction_online": 0.0,
    "diversity": 1,
    "budget": 1,
    "loss": "forward_kl",
    "teacher": "128",
    "student": "96",
    "target": "dense",
}
ONLINE: dict[str, Any] = {"source": "online-teacher", "target": "live", "fraction_online": 1.0}

SIZES = {"top-k:16": 38, "live/mixed:16+prior": 38, "sampled:16": 30}  # bytes per token


@dataclass(frozen=True, kw_only=True)
class SyntheticArm:
    """An arm, the figures that show it, and the shape of its curves."""

    name: str
    figures: tuple[str, ...]
    axes: ExperimentArm
    shape: Shape | None


def rising(rise: float) -> Shape:
    return Shape(golden_rise=rise)


def arm(name: str, figures: Sequence[str], shape: Shape | None = None, **axes: Any) -> SyntheticArm:
    return SyntheticArm(name=name, figures=tuple(figures), axes=ExperimentArm(**{**BASE, **axes}), shape=shape)


ARMS = [
    arm("offline", ["F4", "F5", "F6", "F7", "loss"], rising(0.09)),
    arm("online-teacher", ["F5", "loss"], SHAPES["healthy"], **ONLINE),
    arm("prompts ÷5", ["F6"], rising(0.14), diversity=5),
    arm("5 generations", ["F7"], rising(0.04), budget=5),
    arm("JSD", ["loss"], rising(0.10), loss="jsd"),
    arm("online-teacher, JSD", ["loss"], rising(0.10), loss="jsd", **ONLINE),
]


def write_grid(
    root: Path,
    arms: Sequence[SyntheticArm] = ARMS,
    seeds: Sequence[int] = (0, 1, 2),
    missing: str = "",
    title: str = "A grid & more",
) -> Path:
    """`missing` names an arm whose last seed failed."""
    cells: list[CellResult] = []
    for seed in seeds:
        for one in arms:
            cells.append(_cell(root, len(cells), one, seed, failed=one.name == missing and seed == seeds[-1]))
    figures = tuple(dict.fromkeys(figure for one in arms for figure in one.figures))
    base = ExperimentArm(**BASE)
    summary = Summary(
        title=title,
        figures=figures,
        base=base,
        seeds=tuple(seeds),
        runs=tuple(cells),
        claims=claims(FinishedArms.of(base, cells), figures),
        stages=(StageCosts(name="oracle", count=2, cpu_seconds=600.0),),
        seconds=600.0,
        cpu_seconds=600.0,
        settings={"name": "demo", "teacher": {"epochs": 8}},
    )
    (root / SUMMARY_FILE).write_text(json.dumps(summary.dump()))
    return root


def _cell(root: Path, number: int, one: SyntheticArm, seed: int, *, failed: bool) -> CellResult:
    path = f"runs/{directory_of(one.name)}-{seed}"
    outcome = None
    if not failed:
        kind = "hacking" if one.axes.source == "offline" else "healthy"
        run = write_run(root / path, kind, noise=NOISE, seed=seed, shape=one.shape, num_prompts=128)
        curves = Curves.from_run(run)
        alarm = verdict_without_oracle(curves).alarm_step is not None
        outcome = run_outcome(verdict(curves), alarm=alarm)
    return CellResult(
        cell=number,
        path=path,
        arm=one.name,
        seed=seed,
        figures=one.figures,
        axes=one.axes,
        state="failed" if failed else "finished",
        error="no <luck>" if failed else None,
        outcome=outcome,
        bytes_per_token=SIZES.get(one.axes.target, 4096),
        seconds=1.0,
        cpu_seconds=1.0,
    )


def directory_of(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-")
