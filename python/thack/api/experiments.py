"""The controlled experiment: recipes, the demo, grids and their forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thack.config import ExperimentSettings, checked
from thack.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from thack.experiments.demo import DemoResult
    from thack.experiments.forecast import Forecast
    from thack.experiments.grid import GridResult


def recipe(
    name: str | Path,
    *,
    files: Sequence[str | Path] = (),
    sets: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
) -> ExperimentSettings:
    """The settings of a shipped experiment, or of a TOML file, with changes.

    Args:
        name: demo, quick, laptop, gpu, paper or real; of the research pages diversity, causes, onset, on-policy or
            tokenizers; or the path of a TOML file.
        files: Further TOML files; later ones win.
        sets: Texts of the form `key=value`, such as `axes.budget=[1, 4]`.
        overrides: Values by dotted key.

    Returns:
        The settings, checked.

    Raises:
        UsageError: No such recipe, or a setting that is wrong.

    Example:
        >>> thack.recipe("laptop", sets=["seeds=[0, 1]"]).seeds
        (0, 1)
    """
    from thack.experiments.recipe import load_recipe

    return load_recipe(str(name), sets, [Path(file) for file in files], overrides)


def demo(
    out: str | Path = "runs/demo",
    *,
    settings: ExperimentSettings | None = None,
    progress: Progress = SILENT,
) -> DemoResult:
    """The controlled experiment at laptop size, from Python's own docstrings to a verdict and a report.

    Args:
        out: Output directory; a demo that was stopped is resumed.
        settings: Other settings than `recipe("demo")`, such as `recipe("demo", sets=["seeds=[0, 1]"])`.
        progress: Where progress goes.

    Returns:
        Each student with its verdict, and the report.

    Raises:
        UsageError: Settings that contradict each other, or `out` holds something else.
        MismatchError: A stage in `out` was computed with other defaults.
    """
    from thack.experiments.demo import run_experiment

    return run_experiment(checked(settings or recipe("demo")), Path(out), progress)


def experiment(
    settings: ExperimentSettings, out: str | Path, *, cell: int | None = None, progress: Progress = SILENT
) -> GridResult:
    """Run a grid of controlled experiments. Complete stages are reused; a cell that fails does not stop the others.

    Args:
        settings: Such as `recipe("laptop")`.
        out: Output directory; a grid that was stopped is resumed.
        cell: Run only this cell, counted from 0: one task of a Slurm array.
        progress: Where progress goes.

    Returns:
        What became of each cell; `report(out)` writes the page with the paper's claims.

    Raises:
        UsageError: Settings that contradict each other, or no such cell.
    """
    from thack.experiments.grid import run_grid

    return run_grid(checked(settings), Path(out), progress, only=cell)


def forecast(settings: ExperimentSettings, out: str | Path) -> Forecast:
    """What `experiment` would run, what its cells share, and how long it takes at a measured rate.

    Args:
        settings: Such as `recipe("laptop")`.
        out: Output directory; what is complete there is not counted again.

    Returns:
        The cells, the stages that they share and which of them are complete, tokens, and hours.

    Raises:
        UsageError: Settings that contradict each other.

    Example:
        >>> len(thack.forecast(thack.recipe("quick"), "runs/quick").planned)
        3
    """
    from thack.experiments.forecast import forecast as count
    from thack.experiments.plan import plan
    from thack.runtime.threads import threads

    chosen = checked(settings)
    return count(chosen, plan(chosen, Path(out)), threads())


def write_cells(found: Forecast, recipe: str, out: str | Path) -> Path:
    """Write cells.json for a Slurm array: task N runs cell N.

    Args:
        found: The forecast of the experiment.
        recipe: Its recipe, as it was typed.
        out: Output directory of the experiment.

    Returns:
        The path of cells.json.
    """
    from thack.experiments.forecast import write_plan
    from thack.files import claim_output

    claim_output(Path(out), "experiment")
    return write_plan(found, recipe, Path(out))
