"""CSV as every reader of CSV takes it: quotes doubled, newlines inside quotes, and no cell that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from thack.reporting.text import printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins so


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV: None is an empty field, a float has all its digits, a text that is no formula comes back.

    Example:
        >>> print(csv_text(["arm", "rise"], [["=cmd()", -0.5]]), end="")
        arm,rise
        '=cmd(),-0.5
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in (head, *rows))
    return buffer.getvalue()


def _cell(value: object) -> object:
    """Numbers as they are; a text that would be computed gets the apostrophe that marks it as text."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
