"""From a matplotlib figure to SVG: a file of its own, or a part of a page in the page's fonts and colours."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from thack.reporting.colours import ALL, INK
from thack.reporting.style import styled
from thack.reporting.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIABLES = {
    colour.light: "currentColor" if colour is INK else f"var(--{colour.variable},{colour.light})" for colour in ALL
}
_COLOUR = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"font: (?:(bold|italic) )?([\d.]+)px [^;\"]+")
_NOT_SHOWN = {"metadata", "style"}


def file_svg(figure: Figure) -> str:
    """A stand-alone SVG file, without dates: the same numbers give the same bytes."""
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "thack"})
    return buffer.getvalue()


def inline_svg(file: str, *, name: str, label: str) -> Markup:
    """An `<svg>` element for HTML: the only markup in this package that no template writes.

    Args:
        file: The text of a stand-alone SVG file, by matplotlib.
        name: Precedes every id, so that the figures of a page share none.
        label: Says what is drawn, for those who cannot see it.
    """
    root = ElementTree.fromstring(file)
    prefix = re.sub(r"\W+", "-", name)
    for element in root.iter():
        for child in [child for child in element if _local(child.tag) in _NOT_SHOWN]:
            element.remove(child)
        element.tag = _local(element.tag)
        element.text = element.text and printable(element.text)
        attributes = {_local(key): _attribute(_local(key), value, prefix) for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(attributes)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": printable(label)}
    return Markup(ElementTree.tostring(root, encoding="unicode").strip())


def _local(name: str) -> str:
    """A name without its namespace: HTML knows what is SVG by where it stands."""
    return name.rpartition("}")[2]


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return value.replace("#", f"#{prefix}-", 1)
    value = value.replace("url(#", f"url(#{prefix}-")
    if name == "style":
        value = re.sub(r"font-family: [^;]+;? ?", "", _FONT.sub(_font, value))
    return _COLOUR.sub(lambda match: _VARIABLES[match.group()], value)


def _font(match: re.Match[str]) -> str:
    """The size and weight stay, the family becomes the page's (older matplotlib has one property for all)."""
    weight = "font-weight: 650; " if match[1] == "bold" else ""
    return f"{weight}font-size: {match[2]}px"
