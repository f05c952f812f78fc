"""Rows of a metrics log, thack's or another trainer's: flat, with numbers as numbers, gathered by step."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thack.errors import DataError
from thack.files import flattened
from thack.reading import read_json, read_text
from thack.runtime import runlog
from thack.schema.metric_rows import EVENTS, number
from thack.schema.metrics import Floats, Series

Row = Mapping[str, object]

_CSV_BYTES = 1 << 30  # of a log, which is read whole


def read_rows(path: Path) -> list[Row]:
    """Rows of JSON lines, of CSV, of a JSON list, or of the `log_history` in a transformers trainer_state.json.

    Nested keys are joined by `/`; numbers that stand as text, as in CSV, are numbers.

    Raises:
        DataError: the log is not of one of these forms.
    """
    return [{key: _unquoted(value) for key, value in flattened(row, "/").items()} for row in _raw(path)]


def _raw(path: Path) -> Sequence[Row]:
    if path.suffix == ".csv":
        return _csv_rows(path)
    if path.suffix != ".json" or not path.is_file():
        return runlog.read(path)
    whole = read_json(path, strict=False)
    history = whole.get("log_history") if isinstance(whole, dict) else whole
    if isinstance(history, list) and all(isinstance(row, dict) for row in history):
        return history
    raise DataError(f"{path} holds neither a list of rows nor a `log_history`")


def _csv_rows(path: Path) -> list[Row]:
    """A row for each line below the names of the columns. An empty field is not logged."""
    text = read_text(path, _CSV_BYTES).removeprefix("\ufeff")
    try:
        names, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: not CSV ({error})" if text.strip() else f"{path} has no rows yet") from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: two columns are named {twice!r}", hint="give each column a name of its own")
    if rows and len(rows[-1]) < len(names) and not text.endswith(("\n", "\r")):
        rows.pop()  # the torn last line of a killed writer
    for count, row in enumerate(rows, start=1):
        if row and len(row) != len(names):
            raise DataError(f"{path}: row {count} has {len(row)} fields, but there are {len(names)} columns")
    return [{name: value for name, value in zip(names, row, strict=True) if value} for row in rows if row]


def _unquoted(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def number_or_nan(value: object) -> float:
    """The number that a value is; NaN for everything else."""
    found = number(value)
    return math.nan if found is None else found


@dataclass(frozen=True, slots=True, kw_only=True)
class ByStep:
    """The rows of a log, merged by step. A step that was run twice (a resumed run) keeps what was logged last."""

    evaluations: Mapping[float, Row]
    training: Mapping[float, Row]

    @classmethod
    def of(cls, rows: Iterable[Row], step: str, metrics: Collection[str]) -> ByStep:
        """Rows with one of the columns `metrics`, or an event that says so, are evaluations.

        Golden and proxy may be in rows of their own: several callbacks, one step.
        """
        evaluations: dict[float, dict[str, object]] = {}
        training: dict[float, dict[str, object]] = {}
        for row in rows:
            at, event = number(row.get(step)), row.get("event")
            if at is None or event == "guard":
                continue
            is_evaluation = event == "evaluation" if event in EVENTS else not row.keys().isdisjoint(metrics)
            (evaluations if is_evaluation else training).setdefault(at, {}).update(row)
        return cls(evaluations=evaluations, training=training)

    def columns(self, step: str) -> dict[str, Floats]:
        """Every numeric column of the evaluations, in order of step, NaN where a row lacks it."""
        at = sorted(self.evaluations)
        return {
            key: np.array([number_or_nan(self.evaluations[one].get(key)) for one in at])
            for key in _numeric(self.evaluations.values(), skip=step)
        }

    def series(self, step: str) -> dict[str, Series]:
        """The finite values of every numeric column of training."""
        return {key: self._series(key) for key in _numeric(self.training.values(), skip=step)}

    def _series(self, key: str) -> Series:
        found = [(at, number_or_nan(self.training[at].get(key))) for at in sorted(self.training)]
        kept = [(at, value) for at, value in found if math.isfinite(value)]
        return Series(step=np.array([at for at, _ in kept]), value=np.array([value for _, value in kept]))

    def ends_without_number(self, column: str) -> bool:
        """Whether the last value that was logged is NaN, infinite or null."""
        by_step = sorted(self.evaluations.items(), reverse=True)
        return number(next((row[column] for _, row in by_step if column in row), 0.0)) is None


def _numeric(rows: Iterable[Row], *, skip: str) -> list[str]:
    """Columns with a number in some row, NaN included, in the order of their appearance."""
    keys: dict[str, None] = {}
    for row in rows:
        keys.update(
            (key, None)
            for key, value in row.items()
            if key != skip and isinstance(value, (int, float)) and not isinstance(value, bool)
        )
    return list(keys)
