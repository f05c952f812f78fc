"""Rows of a metrics log, ours or another trainer's: flat, with numbers as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from thack.errors import DataError
from thack.files import read_json
from thack.runtime import runlog

Row = dict[str, object]


def read_log(path: Path) -> list[Row]:
    """Rows of JSON lines, of a JSON list, or of the `log_history` in a transformers trainer_state.json."""
    if path.suffix == ".json" and path.is_file():
        whole = read_json(path)
        history = whole.get("log_history") if isinstance(whole, dict) else whole
        if isinstance(history, list) and all(isinstance(row, dict) for row in history):
            return history
        raise DataError(f"{path} holds neither a list of rows nor a `log_history`")
    return runlog.read(path)


def unquoted(row: Row) -> Row:
    """Numbers that a conversion from CSV left as text."""
    return {key: _parsed(value) if isinstance(value, str) else value for key, value in row.items()}


def _parsed(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def finite(value: object) -> float | None:
    """The number that a value is; None for NaN, infinities, truth values and whatever else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    with suppress(OverflowError):  # an integer beyond all floats
        return float(value) if math.isfinite(value) else None
    return None


def finite_or_nan(value: object) -> float:
    number = finite(value)
    return math.nan if number is None else number


def numeric_keys(rows: Iterable[Row], *, skip: str) -> list[str]:
    """Those that hold a number in some row, NaN included, in the order of their appearance."""
    keys: dict[str, None] = {}
    for row in rows:
        keys.update(
            (key, None)
            for key, value in row.items()
            if key != skip and isinstance(value, (int, float)) and not isinstance(value, bool)
        )
    return list(keys)
