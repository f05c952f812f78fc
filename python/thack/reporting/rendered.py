"""A figure as a report holds it: SVG for the page, SVG for a file, and what is said below it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from thack.reporting.style import SMALL
from thack.reporting.svg import file_svg, inline_svg
from thack.schema.metrics import CurveName

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedFigure:
    """One plot, drawn."""

    name: str  # of its files
    title: str
    caption: str
    svg: Markup  # a part of the page
    file: str  # the same as a file of its own
    curves: tuple[CurveName, ...] = ()  # whose numbers go beside it
    large: bool = False  # half of the page's width instead of a third


def rendered(
    name: str, figure: Figure, title: str, caption: str, *, curves: tuple[CurveName, ...] = ()
) -> RenderedFigure:
    """Draw a figure; its name keeps only what a file's name may hold, and as much of it."""
    name, file = re.sub(r"[^\w.-]+", "-", name)[:80], file_svg(figure)
    return RenderedFigure(
        name=name,
        title=title,
        caption=caption,
        svg=inline_svg(file, name=name, label=title),
        file=file,
        curves=curves,
        large=figure.get_figwidth() > SMALL[0],
    )
