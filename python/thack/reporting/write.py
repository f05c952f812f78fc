"""Write the report and the files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thack.detection import Margins
from thack.files import explained, write_text
from thack.reporting.effects import claims_csv
from thack.reporting.figures import colours_of
from thack.reporting.grid import load_grid
from thack.reporting.grid_figures import CURVE_WORDS, Plate, plates
from thack.reporting.grid_page import render_grid
from thack.reporting.lines import table_of
from thack.reporting.page import render
from thack.reporting.panels import Drawn, draw
from thack.reporting.runs import load
from thack.reporting.style import available
from thack.reporting.svg import file_svg, inline_svg


def write_report(runs: Sequence[Path], out: Path, *, title: str | None = None, margins: Margins | None = None) -> Path:
    """Write one HTML file about one or several runs, and plots/*.svg with their numbers as CSV beside it.

    Runs that differ in their seed only are one arm, shown as a band: `experiment.json` beside the report or
    the runs says so (`{"title": …, "runs": [{"path": …, "arm": …, "seed": …}]}`), or names such as
    `offline-seed3`. Without matplotlib the page has its tables and says what to install.
    """
    subject = load(runs, out, title=title, margins=margins)
    colours = colours_of(subject.arms)
    drawn: list[Drawn] = draw(subject) if available() else []
    svgs = {one.name: inline_svg(one.figure, name=one.name, label=one.title) for one in drawn}
    page = render(subject, colours, drawn, svgs)
    plots = out.parent / "plots"
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if drawn:
            plots.mkdir(exist_ok=True)
    for one in drawn:
        write_text(plots / f"{one.name}.svg", file_svg(one.figure))
        write_text(plots / f"{one.name}.csv", table_of(subject.arms, one.words))
    write_text(out, page)
    return out


def write_grid_report(directory: Path, out: Path, *, margins: Margins | None = None) -> Path:
    """Write one HTML file about a grid that `thack experiment` made, and plots/ with figures, numbers and claims."""
    grid = load_grid(directory, margins)
    found = plates(grid) if available() else plates(grid, draw=False)
    svgs = {
        panel.name: inline_svg(panel.figure, name=panel.name, label=panel.title)
        for plate in found
        for panel in plate.panels
    }
    page = render_grid(grid, found, svgs)
    folder = out.parent / "plots"
    with explained(out):
        folder.mkdir(parents=True, exist_ok=True)
    for plate in found:
        _write_plate(plate, folder)
    write_text(folder / "claims.csv", claims_csv([claim for plate in found for claim in plate.claims]))
    write_text(out, page)
    return out


def _write_plate(plate: Plate, folder: Path) -> None:
    for panel in plate.panels:
        write_text(folder / f"{panel.name}.svg", file_svg(panel.figure))
    write_text(folder / f"{plate.name}.csv", table_of(plate.arms, CURVE_WORDS))
