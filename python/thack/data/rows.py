"""Rows of a user's file with the place of each: JSON lines, a JSON list, CSV, TSV, Parquet, or Arrow."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from thack.data.pipes import copied, is_pipe
from thack.errors import DataError
from thack.reading import BadJson, lines, parse_line, read_bytes

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LONGEST_CELL = 1 << 24  # characters; Python's own limit is shorter than a chat
RESPONSES = "responses.jsonl"  # what `thack generate` writes into its directory
Row = tuple[str, object]  # place, and what stands there; a BadLine where nothing can be read


class BadLine(ValueError):
    """A line that is not a record: why, and what to do about it."""

    hint = "skip such lines with `data.on_bad_line = skip` (they will be counted and listed)"


class UnknownKeys(BadLine):
    """A line without the keys of any format."""

    hint = "rename the key, or name it: `data.prompt_key = question`, `data.response_key = answer`"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file or a pipe, or of a directory that `thack generate` or `datasets` wrote.

    Raises:
        DataError: there is no such file, or it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / RESPONSES).is_file() and (files := sorted(path.glob("*.arrow"))):
            for file in files:
                yield from _columns(file, _arrow_batches)
            return
        path = path / RESPONSES
    if is_pipe(path):
        copy = copied(path)
        for place, row in _rows_of(copy):
            yield place.replace(str(copy), str(path), 1), row
        return
    yield from _rows_of(path)


def _rows_of(path: Path) -> Iterator[Row]:
    """The rows of a file, by the ending of its name."""
    if not path.is_file():
        raise DataError(f"{path} does not exist", hint="give a JSONL, JSON, CSV, TSV, Parquet or Arrow file of prompts")
    if path.suffix in _DELIMITERS:
        yield from _table(path, _DELIMITERS[path.suffix])
    elif path.suffix == ".parquet":
        yield from _columns(path, _parquet_batches)
    elif path.suffix in (".arrow", ".feather"):
        yield from _columns(path, _arrow_batches)
    elif path.suffix == ".json" and _begins_a_list(path):
        yield from _json_list(path)
    else:
        yield from _json_lines(path)


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in lines(path):
        yield f"{path}:{number}", _parse(line)


def _begins_a_list(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4096).lstrip().startswith(b"[")


def _json_list(path: Path) -> Iterator[Row]:
    rows = _parse(read_bytes(path))
    if not isinstance(rows, list):
        raise DataError(f"{path}: {rows if isinstance(rows, BadLine) else 'not a list of records'}")
    for number, row in enumerate(rows, 1):
        yield f"{path}: record {number}", row


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    """Rows of a CSV or TSV file, whose first line names the columns; an empty cell has no value."""
    csv.field_size_limit(_LONGEST_CELL)
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            cells = csv.reader(file, delimiter=delimiter, strict=True)
            names = next(cells, [])
            if len(set(names)) < len(names) or "" in names:
                raise DataError(f"{path}: its first line must name every column, each differently", details=names[:20])
            for number, row in enumerate(filter(None, cells), 1):
                yield f"{path}: row {number}", _cells(names, row)
    except (UnicodeDecodeError, csv.Error) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise DataError(f"{path}: cannot be read behind row {number:,} ({reason})") from error


def _cells(names: list[str], row: list[str]) -> object:
    if len(row) != len(names):
        return BadLine(f"{len(row)} cells under {len(names)} columns: put quotation marks around text with separators")
    return {name: cell or None for name, cell in zip(names, row, strict=True)}


def _parse(text: bytes | BadJson) -> object:
    try:
        return parse_line(text, strict=False)
    except BadJson as error:
        return BadLine(str(error))


def _columns(path: Path, batches: Callable[[Path], Iterator[Any]]) -> Iterator[Row]:
    """Rows of a columnar file. Columns are there for every row: those without a value are left out of it."""
    kind = "Parquet" if path.suffix == ".parquet" else "Arrow"
    try:
        import pyarrow  # noqa: F401 - an extra, and slow to import
    except ImportError as error:
        raise DataError(f"{path}: reading {kind} needs pyarrow", hint="pip install 'thack[data]'") from error
    number = 0
    try:
        for batch in batches(path):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", {key: _without_nulls(value) for key, value in row.items()}
    except Exception as error:  # pyarrow has its own tree of exceptions
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not {_a(kind)} file, or damaged behind row {number:,} ({said})") from error


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOU" else f"a {kind}"


def _parquet_batches(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as parquet

    yield from parquet.ParquetFile(path).iter_batches()


def _arrow_batches(path: Path) -> Iterator[Any]:
    """Of Arrow's file format or its stream format; `datasets` writes streams."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        try:
            file = pyarrow.ipc.open_file(source)
        except pyarrow.ArrowInvalid:
            yield from pyarrow.ipc.open_stream(source)
            return
        for number in range(file.num_record_batches):
            yield file.get_batch(number)


def _without_nulls(value: Any) -> Any:
    """A struct has every key of its column: those without a value were not in the row."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
