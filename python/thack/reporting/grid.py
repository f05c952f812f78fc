"""A grid on disk: experiment.json, and the runs of its finished cells, gathered over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thack.errors import DataError
from thack.reading import read_json
from thack.reporting.inputs import ArmRuns, JudgedRun, in_one_unit, read_run
from thack.schema.experiment import SUMMARY_FILE, CellResult, ExperimentArm, RunLabel, Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class GridArm:
    """One arm of the grid with its finished runs."""

    axes: ExperimentArm
    figures: tuple[str, ...]  # that show it
    runs: ArmRuns
    bytes_per_token: int | None = None  # of the record that holds its target


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What a grid's page shows."""

    summary: Summary
    arms: tuple[GridArm, ...]  # those with a finished run

    @property
    def unfinished(self) -> list[CellResult]:
        """The cells that failed or have not run."""
        return [cell for cell in self.summary.runs if cell.state != "finished"]

    def in_figure(self, figure: str) -> list[GridArm]:
        """The arms that a figure shows, in their order."""
        return [arm for arm in self.arms if figure in arm.figures]


def is_grid(directory: Path) -> bool:
    """Whether `thack experiment` or the demo wrote this directory, and its cells are listed."""
    return (directory / SUMMARY_FILE).is_file()


def load_grid(directory: Path) -> Grid:
    """Read experiment.json, and every finished cell's run.

    Raises:
        DataError: experiment.json is not a grid's, or a run cannot be read.
    """
    path = directory / SUMMARY_FILE
    try:
        summary = Summary.parse(read_json(path), str(path))
    except DataError as error:
        hint = "`thack experiment` writes it: run it again"
        raise DataError(f"{path} is not a grid's", details=[error.message], hint=hint) from error
    by_arm: dict[ExperimentArm, list[CellResult]] = {}
    for cell in summary.runs:
        if cell.state == "finished":
            by_arm.setdefault(cell.axes, []).append(cell)
    paths = {(cell.axes, cell.seed): cell.path for cell in summary.runs if cell.state == "finished"}
    read = iter(in_one_unit([_reader(directory, cell, paths) for cells in by_arm.values() for cell in cells]))
    arms = tuple(_arm(cells, [next(read) for _ in cells]) for cells in by_arm.values())
    return Grid(summary=summary, arms=arms)


def _reader(
    directory: Path, cell: CellResult, paths: Mapping[tuple[ExperimentArm, int], str]
) -> Callable[..., JudgedRun]:
    """A run is compared with its online path, where that is another run of `paths`."""
    online = paths.get((cell.axes.online_path, cell.seed))
    other = directory / online if online and online != cell.path else None
    label = RunLabel(path=cell.path, arm=cell.arm, seed=cell.seed)
    return partial(read_run, directory / cell.path, label, None, online=other)


def _arm(cells: Sequence[CellResult], runs: Sequence[JudgedRun]) -> GridArm:
    return GridArm(
        axes=cells[0].axes,
        figures=cells[0].figures,
        bytes_per_token=cells[0].bytes_per_token,
        runs=ArmRuns(cells[0].arm, tuple(runs)),
    )
