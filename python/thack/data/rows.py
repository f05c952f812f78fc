"""Rows of a user's file with the place of each: JSON lines, a JSON list, Parquet, or Arrow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from thack.errors import DataError

RESPONSES = "responses.jsonl"  # what `thack generate` writes into its directory
Row = tuple[str, object]  # place, and what stands there; a BadLine where nothing can be read


class BadLine(ValueError):
    """A line that is not a record: why."""


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, or of a directory that `thack generate` or `datasets` wrote.

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
    if not path.is_file():
        raise DataError(f"{path} does not exist", hint="give a JSONL, JSON, Parquet or Arrow file of prompts")
    if path.suffix == ".parquet":
        yield from _columns(path, _parquet_batches)
    elif path.suffix in (".arrow", ".feather"):
        yield from _columns(path, _arrow_batches)
    elif path.suffix == ".json" and _begins_a_list(path):
        yield from _json_list(path)
    else:
        yield from _json_lines(path)


def _json_lines(path: Path) -> Iterator[Row]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", _parse(line)


def _begins_a_list(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4096).lstrip().startswith(b"[")


def _json_list(path: Path) -> Iterator[Row]:
    rows = _parse(path.read_bytes())
    if not isinstance(rows, list):
        raise DataError(f"{path}: {rows if isinstance(rows, BadLine) else 'not a list of records'}")
    for number, row in enumerate(rows, 1):
        yield f"{path}: record {number}", row


def _parse(text: bytes) -> object:
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        return BadLine(f"not UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        return BadLine(f"not JSON ({error.msg.lower().removesuffix(' at')} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        return BadLine(f"not JSON that can be read ({str(error).split(';')[0].lower()})")


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
                yield f"{path}: row {number}", _without_nulls(row)
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
