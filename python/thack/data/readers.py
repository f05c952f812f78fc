"""A user's own prompts, pairs, conversations and texts, record by record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from thack.config import DataSettings
from thack.data.columns import OWN, Columns
from thack.data.formats import to_record
from thack.data.records import Record
from thack.data.rows import BadLine, Row, read_rows
from thack.errors import DataError
from thack.reading import LINE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a file of data holds.

    Args:
        records: in the file's order.
        skipped: lines that are no record, each with its place and the reason.
    """

    records: list[Record]
    skipped: tuple[str, ...] = ()


def read_data(path: Path, on_bad_line: str = "stop", columns: Columns = OWN, most: int = LINE_BYTES) -> Reading:
    """Read all records of a file.

    Args:
        path: JSONL, JSON, CSV, TSV, Parquet or Arrow, or a directory that `thack generate` wrote.
        on_bad_line: `stop` at a line that is no record, or `skip` it.
        columns: keys of other names.
        most: bytes of a line.

    Raises:
        DataError: the file is not there or damaged, holds no record, or a line is none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "data.jsonl"
        >>> _ = path.write_text('{"prompt": "2 + 2", "response": "4"}\\n{"question": "2 + 2"}\\n')
        >>> found = read_data(path, "skip")
        >>> len(found.records), len(found.skipped)
        (1, 1)
    """
    records: list[Record] = []
    skipped: list[str] = []
    for found in consistent(parsed(read_rows(Path(path), most), path, on_bad_line, columns), on_bad_line):
        if isinstance(found, BadLine):
            skipped.append(str(found))
        else:
            records.append(found)
    return Reading(records=records, skipped=tuple(skipped))


def each_record(settings: DataSettings, path: str | Path = "") -> Iterator[Record | BadLine]:
    """What `parsed` gives of `settings.path`, or of another file, one row after the other."""
    path = path or settings.path
    rows = read_rows(Path(path), settings.max_line_bytes)
    return parsed(rows, path, settings.on_bad_line, Columns.of(settings))


def parsed(rows: Iterable[Row], path: Path | str, on_bad_line: str, columns: Columns) -> Iterator[Record | BadLine]:
    """Every row as a record; of one that is skipped its place, and the reason.

    Raises:
        DataError: a row is no record and may not be skipped, or none is a record.
    """
    skipped: list[str] = []
    is_empty = True
    for place, row in rows:
        try:
            record = to_record(row, place, columns)
        except BadLine as reason:
            line = bad_line(place, reason, on_bad_line)
            skipped += [line] if len(skipped) < 3 else []
            yield BadLine(line)
        else:
            is_empty = False
            yield record
    if is_empty:
        raise no_records(path, skipped)


def consistent(found: Iterable[Record | BadLine], on_bad_line: str) -> Iterator[Record | BadLine]:
    """The same, but for records whose id an earlier one gave to another prompt. The prompts stay in memory.

    Raises:
        DataError: there is such a record, and it may not be skipped.
    """
    prompts: dict[str, str] = {}
    for record in found:
        if isinstance(record, Record) and prompts.setdefault(record.prompt_id, record.identity) != record.identity:
            yield BadLine(bad_line(record.place, other_prompt(record.prompt_id), on_bad_line))
        else:
            yield record


def read_records(path: Path, on_bad_line: str = "stop", columns: Columns = OWN) -> list[Record]:
    """The records of `read_data` alone."""
    return read_data(path, on_bad_line, columns).records


def bad_line(place: str, reason: ValueError, on_bad_line: str) -> str:
    """A line to skip, with the reason; an error where lines may not be skipped.

    Raises:
        DataError: `on_bad_line` is not `skip`.
    """
    if on_bad_line != "skip":
        raise DataError(f"{place}: {reason}", hint=getattr(reason, "hint", BadLine.hint)) from None
    return f"{place}: {reason}"


def other_prompt(prompt_id: str) -> BadLine:
    """For a record whose id an earlier record gave to another prompt."""
    return BadLine(f"the id {prompt_id!r} is another prompt's: give each its own, or leave `id` out")


def no_records(path: Path | str, skipped: Sequence[str]) -> DataError:
    """For a file without a record."""
    return DataError(
        f"{path} holds no prompts", details=skipped, hint='each line is a JSON object such as {"prompt": "…"}'
    )
