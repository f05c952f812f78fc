"""Rows of a user's file with the place of each: JSON lines, a JSON list, CSV, TSV, Parquet, or Arrow.

Lines, row groups and record batches are read one after the other, and found again by the address of a row. A JSON list
is one value, and in memory as a whole.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from io import TextIOWrapper
from pathlib import Path
from typing import Protocol

from thack.data.columnar import ColumnarRows
from thack.data.pipes import copied, is_pipe
from thack.errors import DataError
from thack.reading import (
    LINE_BYTES,
    BadJson,
    LongLine,
    addressed_lines,
    beginning,
    line_at,
    open_regular,
    parse_line,
    read_bytes,
    read_json,
)

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LONGEST_CELL = 1 << 24  # characters; Python's own limit is shorter than a chat
RESPONSES = "responses.jsonl"  # what `thack generate` writes into its directory
_COMPRESSED = {
    b"\x1f\x8b": "zcat",
    b"\x28\xb5\x2f\xfd": "zstdcat",
    b"\xfd7zXZ\0": "xzcat",
    b"BZh": "bzcat",
    b"PK\x03\x04": "unzip -p",
}
_STATE = "state.json"  # where `datasets` names its files
Row = tuple[str, object]  # place, and what stands there; a BadLine where nothing can be read


class BadLine(ValueError):
    """A line that is not a record: why, and what to do about it."""

    hint = "skip such lines with `data.on_bad_line = skip` (they will be counted and listed)"


class TooLong(BadLine):
    """A line of more bytes than are read."""

    hint = "raise `data.max_line_bytes`, or skip such lines with `data.on_bad_line = skip`"


class UnknownKeys(BadLine):
    """A line without the keys of any format."""

    hint = "rename the key, or name it: `data.prompt_key = question`, `data.response_key = answer`"


class Rows(Protocol):
    """The rows of a data set. An address finds a row again: a byte in JSON lines, else the number of the row."""

    @property
    def files(self) -> list[Path]:
        """What is read."""

    def __iter__(self) -> Iterator[tuple[int, str, object]]:
        """Address, place and value of every row."""

    def at(self, addresses: Sequence[int]) -> Iterator[Row]:
        """The rows at these addresses, ascending."""


def open_rows(path: Path, most: int = LINE_BYTES) -> Rows:
    """The rows of a file or a pipe, or of a directory that `thack generate` or `datasets` wrote.

    Args:
        path: of it.
        most: bytes of a line of JSON; a longer one is a BadLine, and does not get into memory.

    Raises:
        DataError: there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        if files := datasets_files(path):
            return ColumnarRows(files)
        path = path / RESPONSES
    if is_pipe(path):
        copy = copied(path)
        return _Copied(_rows_of(copy, most), copy, path)
    return _rows_of(path, most)


def datasets_files(directory: Path) -> list[Path]:
    """The files of a data set that `datasets` saved, without what its `map` and `filter` cached there; none: no such.

    Raises:
        DataError: its state.json is damaged, or there are several data sets.
    """
    if (directory / RESPONSES).is_file():
        return []
    if (directory / "dataset_dict.json").is_file():
        splits = sorted(found.parent.name for found in directory.glob(f"*/{_STATE}"))
        raise DataError(
            f"{directory} holds several data sets", details=splits, hint="give the directory of one of them"
        )
    there = sorted(path for path in directory.glob("*.arrow") if not path.name.startswith("cache-"))
    if not there or not (directory / _STATE).is_file():
        return there
    try:
        names = [file["filename"] for file in read_json(directory / _STATE, strict=False)["_data_files"]]
        return [next(path for path in there if path.name == name) for name in names]
    except (KeyError, TypeError, StopIteration) as error:
        raise DataError(
            f"{directory / _STATE} does not name the files beside it", hint="save the data set again (save_to_disk)"
        ) from error


def _rows_of(path: Path, most: int) -> Rows:
    """The rows of a file, by the ending of its name."""
    if not path.is_file():
        raise DataError(f"{path} does not exist", hint="give a JSONL, JSON, CSV, TSV, Parquet or Arrow file of prompts")
    begin = beginning(path)
    _refuse_other_formats(path, begin)
    if path.suffix in _DELIMITERS:
        return _Table(path, _DELIMITERS[path.suffix])
    if path.suffix in (".parquet", ".arrow", ".feather"):
        return ColumnarRows([path])
    return _JsonList(path) if path.suffix == ".json" and begin.startswith(b"[") else _JsonLines(path, most)


def _refuse_other_formats(path: Path, begin: bytes) -> None:
    """A file that is compressed, or one JSON object over many lines."""
    for magic, program in _COMPRESSED.items():
        if begin.startswith(magic):
            raise DataError(
                f"{path} is compressed", hint=f"unpack it, or give what {program} writes: <({program} {path})"
            )
    if re.match(rb"\{\s*\n", begin):
        raise DataError(
            f"{path} is one JSON object over several lines, not a list of records",
            hint="give the list in it alone, or one record a line",
        )


def read_rows(path: Path, most: int = LINE_BYTES) -> Iterator[Row]:
    """Place and value of all rows of `open_rows`.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    for _, place, row in open_rows(path, most):
        yield place, row


class _Copied:
    """Rows of the copy of a pipe, under the name of the pipe."""

    def __init__(self, rows: Rows, copy: Path, path: Path) -> None:
        self._rows, self._copy, self._path, self.files = rows, str(copy), str(path), rows.files

    def __iter__(self) -> Iterator[tuple[int, str, object]]:
        for address, place, row in self._rows:
            yield address, place.replace(self._copy, self._path, 1), row

    def at(self, addresses: Sequence[int]) -> Iterator[Row]:
        for place, row in self._rows.at(addresses):
            yield place.replace(self._copy, self._path, 1), row


class _JsonLines:
    def __init__(self, path: Path, most: int) -> None:
        self._path, self.files, self._most = path, [path], most

    def __iter__(self) -> Iterator[tuple[int, str, object]]:
        for address, number, line in addressed_lines(self._path, self._most):
            yield address, f"{self._path}:{number}", _parse(line)

    def at(self, addresses: Sequence[int]) -> Iterator[Row]:
        with open_regular(self._path) as file:
            for address in addresses:
                file.seek(address)
                yield f"{self._path}: byte {address}", _parse(line_at(file, self._most)[0])


class _JsonList:
    def __init__(self, path: Path) -> None:
        self._path, self.files = path, [path]

    @cached_property
    def _rows(self) -> list[object]:
        rows = _parse(read_bytes(self._path))
        if not isinstance(rows, list):
            raise DataError(f"{self._path}: {rows if isinstance(rows, BadLine) else 'not a list of records'}")
        return rows

    def __iter__(self) -> Iterator[tuple[int, str, object]]:
        for number, row in enumerate(self._rows):
            yield number, f"{self._path}: record {number + 1}", row

    def at(self, addresses: Sequence[int]) -> Iterator[Row]:
        for number in addresses:
            yield f"{self._path}: record {number + 1}", self._rows[number]


class _Table:
    """Rows of a CSV or TSV file, whose first line names the columns; an empty cell has no value."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path, self.files, self._delimiter = path, [path], delimiter
        self._open: Iterator[tuple[int, str, object]] = iter(())
        self._next = 0  # number of the row that `_open` gives next

    def __iter__(self) -> Iterator[tuple[int, str, object]]:
        csv.field_size_limit(_LONGEST_CELL)
        number = 0
        try:
            with open_regular(self._path) as binary, TextIOWrapper(binary, "utf-8-sig", newline="") as file:
                cells = csv.reader(file, delimiter=self._delimiter, strict=True)
                names = next(cells, [])
                if len(set(names)) < len(names) or "" in names:
                    reason = "its first line must name every column, each differently"
                    raise DataError(f"{self._path}: {reason}", details=names[:20])
                for number, row in enumerate(filter(None, cells), 1):
                    yield number - 1, f"{self._path}: row {number}", _cells(names, row)
        except (UnicodeDecodeError, csv.Error) as error:
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise DataError(f"{self._path}: cannot be read behind row {number:,} ({reason})") from error

    def at(self, addresses: Sequence[int]) -> Iterator[Row]:
        """A quoted cell may hold line breaks: rows are counted from the beginning, or on from the last one."""
        for number in addresses:
            if number < self._next or not self._next:
                self._open, self._next = iter(self), 0
            for found, place, row in self._open:
                self._next = found + 1
                if found == number:
                    yield place, row
                    break


def _cells(names: list[str], row: list[str]) -> object:
    if len(row) != len(names):
        return BadLine(f"{len(row)} cells under {len(names)} columns: put quotation marks around text with separators")
    return {name: cell or None for name, cell in zip(names, row, strict=True)}


def _parse(text: bytes | BadJson) -> object:
    try:
        return parse_line(text, strict=False)
    except LongLine as error:
        return TooLong(str(error))
    except BadJson as error:
        return BadLine(str(error))
