"""Rows of Parquet and Arrow files, a batch at a time, each found by its number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from thack.errors import DataError
from thack.reading import parse_json

_BATCH = 1024  # rows that become Python values at a time
_Plain = Callable[[Any], Any]


class _Unit:
    """Rows of a columnar file that can be found alone: a row group of Parquet, or a record batch of Arrow."""

    def __init__(self, path: Path, before: int, num_rows: int, batches: Callable[[], Iterator[Any]]) -> None:
        self.path, self.before, self.num_rows, self.batches = path, before, num_rows, batches


class ColumnarRows:
    """Rows of columnar files, numbered over all of them. At most one row group is decoded at a time."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._batches: Iterator[Any] = iter(())
        self._unit = -1  # that is open
        self._rows: list[Any] = []  # of one batch
        self._columns: dict[str, _Plain] = {}  # what reads the values of each
        self._first = 0  # number of its first row

    def __iter__(self) -> Iterator[tuple[int, str, object]]:
        for number in range(self._starts[-1]):
            yield number, *self._row(number)

    def at(self, addresses: Sequence[int]) -> Iterator[tuple[str, object]]:
        for number in addresses:
            yield self._row(number)

    @cached_property
    def _units(self) -> list[_Unit]:
        found = []
        for path in self.files:
            with _readable(path, 0):
                found += list((_row_groups if path.suffix == ".parquet" else _record_batches)(path))
        return found

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(unit.num_rows for unit in self._units)]

    def _row(self, number: int) -> tuple[str, object]:
        if not self._first <= number < self._first + len(self._rows):
            self._seek(number)
        unit = self._units[self._unit]
        within = unit.before + number - self._starts[self._unit] + 1
        row = self._rows[number - self._first]
        with _readable(unit.path, within - 1):
            return f"{unit.path}: row {within}", {key: plain(row[key]) for key, plain in self._columns.items()}

    def _seek(self, number: int) -> None:
        """Read the batch that holds a row; batches of its unit that lie before it are passed over."""
        wanted = bisect_right(self._starts, number) - 1
        unit = self._units[wanted]
        with _readable(unit.path, unit.before + number - self._starts[wanted]):
            if wanted != self._unit or number < self._first:
                self._unit, self._batches = wanted, unit.batches()
                self._first, self._rows = self._starts[wanted], []
            self._first += len(self._rows)
            while (batch := next(self._batches)).num_rows <= number - self._first:
                self._first += batch.num_rows
            batch.validate(full=True)  # offsets are of the file, and may lead out of it
            self._rows = batch.to_pylist()
            self._columns = {field.name: _plain(field.type) for field in batch.schema}


@contextmanager
def _readable(path: Path, number: int) -> Iterator[None]:
    """Turn pyarrow's errors, which have a tree of their own, into ours."""
    kind = "Parquet" if path.suffix == ".parquet" else "Arrow"
    try:
        import pyarrow  # noqa: F401 - an extra, and slow to import
    except ImportError as error:
        raise DataError(f"{path}: reading {kind} needs pyarrow", hint="pip install 'thack[data]'") from error
    try:
        yield
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not {_a(kind)} file, or damaged behind row {number:,} ({said})") from error


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOU" else f"a {kind}"


def _row_groups(path: Path) -> Iterator[_Unit]:
    import pyarrow.parquet as parquet

    file, before = parquet.ParquetFile(path), 0
    for number in range(file.num_row_groups):
        size = file.metadata.row_group(number).num_rows
        yield _Unit(path, before, size, partial(file.iter_batches, batch_size=_BATCH, row_groups=[number]))
        before += size


def _record_batches(path: Path) -> Iterator[_Unit]:
    """Of Arrow's file format or its stream format; `datasets` writes streams. They stay in the file, mapped."""
    import pyarrow

    source, before = pyarrow.memory_map(str(path)), 0
    try:
        file = pyarrow.ipc.open_file(source)
        batches = map(file.get_batch, range(file.num_record_batches))
    except pyarrow.ArrowInvalid:
        batches = iter(pyarrow.ipc.open_stream(source))
    for batch in batches:
        yield _Unit(path, before, batch.num_rows, partial(_slices, batch))
        before += batch.num_rows


def _slices(batch: Any) -> Iterator[Any]:
    return (batch.slice(start, _BATCH) for start in range(0, batch.num_rows, _BATCH))


def _plain(kind: Any) -> _Plain:
    """What turns a value of an Arrow type into a plain one.

    A struct has every key of its column: those without a value were not in the row. Values of several types in one
    column are texts of JSON, which is how `datasets` keeps turns and tools that differ in their keys.
    """
    import pyarrow

    if getattr(kind, "extension_name", "") == "arrow.json":
        return lambda text: None if text is None else parse_json(text, strict=False)
    if pyarrow.types.is_struct(kind):
        keys = {field.name: _plain(field.type) for field in kind}
        return lambda value: value and {key: keys[key](item) for key, item in value.items() if item is not None}
    if hasattr(kind, "value_field"):  # any kind of list
        plain = _plain(kind.value_type)
        return lambda values: values and [plain(value) for value in values]
    return lambda value: value
