"""Draw the pictures of the documents from a grid: `python benches/draw_docs.py runs/laptop docs`.

plane.png is the proxy–golden plane of figure F5's arms. grid.png is golden over steps for F5, F7, F8's tasks and the
shares of new responses, and golden's end over bytes per token. diversity.png is golden over steps for F6's prompts, by
task. Figures are those of the grid's page, on white; a picture for which the grid has no runs is left as it is.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from thack.reporting.colours import Colour
from thack.reporting.figures import colours_of, golden, plane
from thack.reporting.grid import Grid, GridArm, load_grid
from thack.reporting.grid_plots import ends_by_bytes
from thack.reporting.inputs import ArmRuns
from thack.reporting.style import SMALL, styled

_PIXELS_PER_INCH = 200
_COLUMNS = 3


def draw(directory: Path, out: Path) -> list[Path]:
    """The pictures for which the grid has runs, in the folder `out`."""
    grid = load_grid(directory)
    main = [arm.runs for arm in grid.in_figure("F5")]
    pictures = {"plane.png": [_titled(plane(main, colours_of(main)), "", main)]} if main else {}
    pictures |= {"grid.png": list(_panels(grid)), "diversity.png": list(_diversity(grid))}
    pictures = {name: figures for name, figures in pictures.items() if figures}
    for name, figures in pictures.items():
        _side_by_side([_image(figure) for figure in figures]).save(out / name)
    return [out / name for name in pictures]


def _panels(grid: Grid) -> Iterator[Figure]:
    for title, name in (("F5", "F5"), ("Generations per prompt", "F7"), ("Shares of new responses", "fraction")):
        if shown := grid.in_figure(name):
            yield _golden(shown, title)
    for task in dict.fromkeys(arm.axes.task for arm in grid.in_figure("F8")):
        yield _golden([arm for arm in grid.in_figure("F8") if arm.axes.task == task], f"Task {task}")
    if shown := grid.in_figure("target"):
        yield _titled(ends_by_bytes(shown), "What a target costs", [])


def _diversity(grid: Grid) -> Iterator[Figure]:
    shown = grid.in_figure("F6")
    for task in dict.fromkeys(arm.axes.task for arm in shown):
        yield _golden([arm for arm in shown if arm.axes.task == task], f"Fewer prompts, task {task}")


def _golden(shown: Sequence[GridArm], title: str) -> Figure:
    runs = [arm.runs for arm in shown]
    return _titled(golden(runs, colours_of(runs), size=SMALL), title, runs)


@styled()
def _titled(figure: Figure, title: str, arms: Sequence[ArmRuns]) -> Figure:
    """The figure with its title, and the names of its arms above it."""
    (axes,) = figure.axes
    colours: Sequence[Colour] = colours_of(arms)
    handles = [
        axes.plot([], [], color=colour.light, marker=colour.marker, label=arm.name)[0]
        for arm, colour in zip(arms, colours, strict=True)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize="small")
    if title:
        axes.set_title(title, loc="left", fontsize="medium")
    return figure


@styled()
def _image(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_PIXELS_PER_INCH, facecolor="white")
    return Image.open(buffer).convert("RGB")


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Rows of three, each cell as large as the largest image."""
    width, height = max(one.width for one in images), max(one.height for one in images)
    columns, rows = min(_COLUMNS, len(images)), -(-len(images) // _COLUMNS)
    page = Image.new("RGB", (columns * width, rows * height), "white")
    for number, image in enumerate(images):
        page.paste(image, (number % _COLUMNS * width, number // _COLUMNS * height))
    return page


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1]), Path(sys.argv[2])):
        print(path)
