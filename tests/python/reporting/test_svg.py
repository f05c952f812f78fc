"""A figure inside a page: its ids its own, its colours and fonts the page's, its text text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from markupsafe import Markup
from matplotlib.figure import Figure

from thack.reporting.colours import ALL, GRID, INK, OFFLINE
from thack.reporting.drawing import new_figure
from thack.reporting.rendered import rendered
from thack.reporting.style import SIZE, SMALL, styled
from thack.reporting.svg import file_svg, inline_svg


def drawn() -> Figure:
    with styled():
        found, axes = new_figure(SMALL)
        axes.plot([1, 2, 3], [3, 1, 2], color=OFFLINE.light, marker="o")
        axes.fill_between([1, 2, 3], [2, 0, 1], [4, 2, 3], color=OFFLINE.light, alpha=0.2)
        axes.set_title("a < b & $x_1$", fontweight="bold", color=INK.light)
        axes.set_xlabel("step\u202ereversed")
        axes.grid(color=GRID.light)
    return found


@pytest.fixture(scope="module")
def figure() -> Figure:
    return drawn()


@pytest.fixture(scope="module")
def inline(figure: Figure) -> str:
    return inline_svg(file_svg(figure), name="F8-my task", label='golden, task "x" & more')


def test_it_is_one_svg_element_and_well_formed(inline: str) -> None:
    root = ElementTree.fromstring(inline)
    assert root.tag == "svg" and inline.startswith("<svg ") and "xmlns" not in inline
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == 'golden, task "x" & more'
    assert set(root.attrib) == {"viewBox", "role", "aria-label"}


def test_ids_are_the_figures_own_and_references_follow_them(inline: str) -> None:
    root = ElementTree.fromstring(inline)
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert ids and len(ids) == len(set(ids)) and all(name.startswith("F8-my-task-") for name in ids)
    references = set(re.findall(r"url\(#([^)]+)\)", inline)) | set(re.findall(r'href="#([^"]+)"', inline))
    assert references and references <= set(ids)


def test_colours_are_the_pages(inline: str) -> None:
    assert "currentColor" in inline and f"var(--offline,{OFFLINE.light})" in inline
    bare = re.sub(r"var\([^)]*\)", "", inline)
    assert not [colour.variable for colour in ALL if colour.light in bare]


def test_fonts_are_the_pages_and_sizes_and_weights_stay(inline: str) -> None:
    assert "DejaVu" not in inline and "font-family" not in inline
    assert re.search(r"font-weight: \d+; font-size: [\d.]+px", inline)


def test_nothing_is_left_that_is_not_shown(inline: str) -> None:
    assert "<metadata" not in inline and "<style" not in inline and "<!--" not in inline and "DOCTYPE" not in inline


def test_text_is_text_without_mathematics_and_without_direction(inline: str) -> None:
    assert "a &lt; b &amp; $x_1$" in inline
    assert "step[right-to-left override]reversed" in inline and "\u202e" not in inline


def test_the_same_numbers_give_the_same_bytes() -> None:
    """Two figures: a second look at one finds its layout settled, and may differ in the last digit."""
    found = file_svg(drawn())
    assert found == file_svg(drawn())
    assert "<dc:date>" not in found


def test_a_rendered_figure_holds_both_and_a_name_for_files(figure: Figure) -> None:
    found = rendered("F8-a/b c", figure, "T", "C", curves=("golden",))
    assert found.name == "F8-a-b-c" and found.curves == ("golden",) and not found.large
    with styled():
        assert rendered("x", new_figure(SIZE)[0], "T", "C").large, "what is drawn wide is shown wide"
    assert isinstance(found.svg, Markup) and found.file.startswith("<?xml")
    assert "F8-a-b-c-" in found.svg
