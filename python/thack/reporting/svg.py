"""From a matplotlib figure to SVG that belongs into a page: small, its text text, its colours the page's."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from thack.reporting.colours import ALL, INK
from thack.reporting.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIABLES = {
    colour.light: "currentColor" if colour is INK else f"var(--{colour.variable},{colour.light})" for colour in ALL
}
_COLOUR = re.compile("|".join(_VARIABLES))


def file_svg(figure: Figure) -> str:
    """A stand-alone SVG file, without dates, the same bytes for the same numbers."""
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "thack"})
    return buffer.getvalue()


def inline_svg(figure: Figure, *, name: str, label: str) -> str:
    """An `<svg>` element for HTML: ids carry `name`, colours are CSS variables, fonts are the page's."""
    text = file_svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href="|href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font: (?:(bold|italic) )?([\d.]+)px [^;\"]+", _font, text)
    text = re.sub(r"font-family: [^;\"]+;? ?", "", text)
    text = re.sub(r"<style[^>]*>\*\{[^}]*\}</style>", "", text)
    text = _COLOUR.sub(lambda match: _VARIABLES[match.group()], text)
    opening = re.match(r"<svg[^>]*>", text)
    assert opening is not None
    box = re.search(r'viewBox="[^"]*"', opening.group())
    assert box is not None
    head = (
        f'<svg {box.group()} role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return head + text[opening.end() :].strip()


def _font(match: re.Match[str]) -> str:
    """The size and weight stay, the family becomes the page's."""
    weight = "font-weight: 650; " if match[1] == "bold" else ""
    return f"{weight}font-size: {match[2]}px"
