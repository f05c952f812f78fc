"""Write the reports, and the files beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thack.detection import Margins
from thack.files import explained, write_text
from thack.reporting.bands import curves_csv
from thack.reporting.effects import claims_csv
from thack.reporting.figures import colours_of
from thack.reporting.grid import load_grid
from thack.reporting.grid_figures import CURVES, paper_figures
from thack.reporting.grid_page import grid_page
from thack.reporting.inputs import load
from thack.reporting.page import runs_page
from thack.reporting.run_figures import run_figures
from thack.reporting.style import INSTALL, available
from thack.runtime.lock import locked


def write_report(runs: Sequence[Path], out: Path, *, title: str | None = None, margins: Margins | None = None) -> Path:
    """Write one HTML file about one or several runs, and plots/*.svg with their numbers as CSV beside it.

    Runs that differ in their seed only are one arm, shown as a band. A file `experiment.json` beside the report or
    the runs names arms and seeds: `{"title": …, "runs": [{"path": …, "arm": …, "seed": …}]}`. So do names of
    directories such as `offline-seed3`. Without matplotlib the page has its tables and says what to install.

    Args:
        runs: Run directories, or metrics logs of other trainers.
        out: The HTML file.
        title: Of the page; by default that of experiment.json, or the verdict.
        margins: What counts as a rise; by default `Margins()`.

    Returns:
        `out`.

    Raises:
        UsageError: `runs` is empty, or `out` cannot be written.
        DataError: one of `runs` cannot be read.

    Example:
        >>> write_report([Path("runs/a"), Path("runs/b")], Path("report.html"))  # doctest: +SKIP
        PosixPath('report.html')
    """
    report = load(runs, out, title=title, margins=margins)
    colours = colours_of(report.arms)
    figures = list(run_figures(report, colours)) if available() else []
    page = runs_page(report, colours, figures, missing_plots="" if available() else INSTALL)
    with locked(out):
        plots = _folder(out, plots=bool(figures))
        for figure in figures:
            write_text(plots / f"{figure.name}.svg", figure.file)
            write_text(plots / f"{figure.name}.csv", curves_csv(report.arms, figure.curves))
        write_text(out, page)
    return out


def write_grid_report(directory: Path, out: Path) -> Path:
    """Write one HTML file about a grid, and plots/ with its figures, numbers and claims beside it.

    Args:
        directory: What `thack experiment` wrote; cells may be missing.
        out: The HTML file.

    Returns:
        `out`.

    Raises:
        DataError: `directory` has no summary of a grid, or a run of it cannot be read.
        UsageError: `out` cannot be written.

    Example:
        >>> write_grid_report(Path("runs/laptop"), Path("report.html"))  # doctest: +SKIP
        PosixPath('report.html')
    """
    grid = load_grid(directory)
    figures = paper_figures(grid, draw=available())
    page = grid_page(grid, figures, missing_plots="" if available() else INSTALL)
    with locked(out):
        plots = _folder(out, plots=True)
        for figure in figures:
            for plot in figure.plots:
                write_text(plots / f"{plot.name}.svg", plot.file)
            write_text(plots / f"{figure.name}.csv", curves_csv(figure.arms, CURVES))
        write_text(plots / "claims.csv", claims_csv(grid.summary.claims))
        write_text(out, page)
    return out


def _folder(out: Path, *, plots: bool) -> Path:
    """The folder of plots beside a report; it and the report's own folder are created."""
    folder = out.parent / "plots"
    with explained(out):
        (folder if plots else out.parent).mkdir(parents=True, exist_ok=True)
    return folder
