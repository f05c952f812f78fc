"""A grid on disk: the cells of experiment.json, those that are finished read and judged, gathered over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thack.detection import Margins
from thack.errors import DataError
from thack.files import read_json
from thack.reporting.inputs import ArmRuns, read_run
from thack.schema.targets import live_word

SUMMARY = "experiment.json"


@dataclass(frozen=True)
class GridArm:
    """One point of the grid: its place on every axis, the figures that show it, and its finished runs."""

    axes: Mapping[str, Any]
    figures: tuple[str, ...]
    arm: ArmRuns
    bytes_per_token: int | None = None  # of the record that holds its target


@dataclass(frozen=True)
class Grid:
    """What a grid's page shows."""

    title: str
    figures: tuple[str, ...]
    arms: tuple[GridArm, ...]  # those with a finished run
    base_axes: Mapping[str, Any]  # of the plain offline run
    rows: tuple[Mapping[str, Any], ...]  # every cell, as experiment.json tells it
    summary: Mapping[str, Any]

    @property
    def unfinished(self) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if row["state"] != "finished"]

    def of(self, figure: str) -> list[GridArm]:
        """The arms that a figure shows, in their order."""
        return [arm for arm in self.arms if figure in arm.figures]

    def base(self) -> GridArm | None:
        return self.find()

    def find(self, **changes: object) -> GridArm | None:
        """The arm that differs from the plain one in these axes only."""
        return self._like(self.base_axes, changes)

    def same(self, arm: GridArm, **changes: object) -> GridArm | None:
        """The arm that differs from `arm` in these axes only."""
        return self._like(arm.axes, changes)

    def _like(self, axes: Mapping[str, Any], changes: Mapping[str, object]) -> GridArm | None:
        implied: dict[str, object] = {}
        if changes.get("source") in ("online-teacher", "online-student"):
            implied = {"target": live_word(axes["target"]), "fraction_online": 1.0, "budget": 1}
        wanted = {**axes, **implied, **changes}
        return next((arm for arm in self.arms if arm.axes == wanted), None)

    def offline_of(self, arm: GridArm) -> GridArm | None:
        """The arm without fresh responses that sees the same of its teacher, and is `arm` in all other axes."""
        wanted = {**arm.axes, "source": "offline", "fraction_online": 0.0}
        found = [one for one in self.arms if {**one.axes, "target": live_word(one.axes["target"])} == wanted]
        cached = [one for one in found if one.axes["target"] != wanted["target"]]
        return next(iter([*cached, *found]), None)

    def along(self, figure: str, axis: str, **fixed: object) -> list[tuple[Any, GridArm]]:
        """A figure's arms by their value of one axis, in increasing order of numbers."""
        found = [
            (arm.axes[axis], arm)
            for arm in self.of(figure)
            if all(arm.axes[name] == value for name, value in fixed.items())
        ]
        numbers = all(isinstance(value, int | float) for value, _ in found)
        return sorted(found, key=lambda pair: pair[0]) if numbers else found


def is_grid(directory: Path) -> bool:
    """Whether `thack experiment` (or the demo) wrote this directory, and its cells are listed."""
    return (directory / SUMMARY).is_file()


def load_grid(directory: Path, margins: Margins | None = None) -> Grid:
    """Read experiment.json, and every finished cell's run."""
    summary = read_json(directory / SUMMARY)
    rows = summary.get("runs") if isinstance(summary, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "axes" in row for row in rows):
        raise DataError(f"{directory / SUMMARY} is not a grid's", hint="thack experiment writes it: run it again")
    return Grid(
        title=str(summary.get("title", "")),
        figures=tuple(summary.get("figures", ())),
        arms=tuple(_gather(directory, rows, margins)),
        base_axes=summary["base"],
        rows=tuple(rows),
        summary=summary,
    )


def _gather(directory: Path, rows: Sequence[Mapping[str, Any]], margins: Margins | None) -> list[GridArm]:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["state"] == "finished":
            by_name.setdefault(row["arm"], []).append(row)
    return [
        GridArm(
            axes=found[0]["axes"],
            figures=tuple(found[0]["figures"]),
            bytes_per_token=found[0].get("bytes_per_token"),
            arm=ArmRuns(name, tuple(read_run(directory / row["path"], (name, row["seed"]), margins) for row in found)),
        )
        for name, found in by_name.items()
    ]
