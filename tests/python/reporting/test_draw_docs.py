"""The pictures of the documents are what benches/draw_docs.py makes of a grid."""

from __future__ import annotations

import runpy
from pathlib import Path

from PIL import Image

from reporting.grid_of_runs import arm, rising, write_grid

ROOT = Path(__file__).parents[3]


def test_both_pictures_of_a_grid(tmp_path: Path) -> None:
    arms = [
        arm("offline", ["F5", "F7", "target"], rising(0.09)),
        arm("top-16 + tail", ["target"], rising(0.1), target="top-k:16"),
    ]
    draw = runpy.run_path(str(ROOT / "benches" / "draw_docs.py"))["draw"]
    plane, grid = draw(write_grid(tmp_path, arms, seeds=(0,)), tmp_path)
    assert (plane.name, grid.name) == ("plane.png", "grid.png")
    with Image.open(plane) as one, Image.open(grid) as panels:
        assert one.size == (840, 620) and panels.size == (3 * 680, 540), "F5, F7 and the targets beside each other"
        assert panels.convert("L").point(lambda value: 255 * (value < 100)).getbbox() is not None, "something is drawn"
