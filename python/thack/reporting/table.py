"""Tables as data: cells are spans of text with a style each; templates alone write markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from thack.reporting.colours import Colour

Style = Literal["plain", "strong", "small", "code", "pill", "swatch", "heat-1", "heat-2", "heat-3"]
Layout = Literal[
    "stacked",
    "results stacked",
    "claims stacked",
    "answers stacked",
    "numbers",
    "numbers stacked",
    "numbers prompts stacked",
    "numbers wide",
    "numbers wide stacked",
    "",
]
DASH = "–"


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text in one style; for a swatch, the CSS variable of its colour."""

    text: str
    style: Style = "plain"


Cell = tuple[Span, ...]
Row = list[Cell | str]  # a text is a cell of one plain span


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under a head. `stacked` rows become blocks on a phone."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    layout: Layout = ""


def table(head: Sequence[str], rows: Iterable[Row], layout: Layout = "") -> Table:
    """A table of these rows.

    Raises:
        ValueError: a row has more or fewer cells than the head.
    """
    cells = tuple(tuple((Span(cell),) if isinstance(cell, str) else cell for cell in row) for row in rows)
    if any(len(row) != len(head) for row in cells):
        raise ValueError(f"every row needs {len(head)} cells")
    return Table(head=tuple(head), rows=cells, layout=layout)


def without_empty(found: Table) -> Table:
    """The table without columns in which no row has a number."""
    kept = [at for at in range(len(found.head)) if any(_text(row[at]) not in ("", DASH) for row in found.rows)]
    rows = tuple(tuple(row[at] for at in kept) for row in found.rows)
    return replace(found, head=tuple(found.head[at] for at in kept), rows=rows)


def _text(cell: Cell) -> str:
    return "".join(span.text for span in cell)


def code(text: str) -> Cell:
    """A cell in the font of code."""
    return (Span(text, "code"),)


def strong(text: str, small: str = "") -> Cell:
    """A cell in bold, with something small behind it."""
    return (Span(text, "strong"), *note(small))


def pill(name: str, small: str = "") -> Cell:
    """A verdict or an answer, in its colour."""
    return (Span(name, "pill"), *note(small))


def coloured(colour: Colour, text: str, small: str = "") -> Cell:
    """A name behind the swatch of its colour."""
    return (Span(colour.variable, "swatch"), Span(text), *note(small))


def note(text: str) -> Cell:
    """Something small; nothing for an empty text."""
    return (Span(text, "small"),) if text else ()
