"""metrics.jsonl: what happened in a run, one JSON object per line, readable while it is being written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from thack.errors import DataError
from thack.files import explained, write_bytes
from thack.reading import BadJson, lines, open_regular, parse_line

_BLOCK = 1 << 16  # bytes


class RunLog:
    """Appends rows to a log. Every row is flushed. The torn last line of a killed run is removed first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _remove_torn_line(path)
            self._file = open(path, "ab")  # noqa: SIM115 - closed by close()

    def append(self, row: Mapping[str, object]) -> None:
        """Write one row; numbers that are not finite become null, since JSON has no name for them."""
        text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False)
        with explained(self.path):
            self._file.write(text.encode() + b"\n")
            self._file.flush()

    def sync(self) -> None:
        """Make all rows so far durable: before a checkpoint that assumes them."""
        with explained(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with explained(self.path):  # which tries a row once more that a full disk refused
            self._file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a log, without the torn last line of a killed writer.

    Raises:
        DataError: there is no such log, or another line is not a JSON object.
    """
    rows: list[dict[str, Any]] = []
    for number, line in lines(path):
        try:
            row = parse_line(line, strict=False)  # other trainers write NaN
        except BadJson as error:
            if isinstance(line, bytes) and not line.endswith(b"\n"):
                break
            raise DataError(f"{path}:{number}: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a {type(row).__name__}, not an object")
        rows.append(row)
    return rows


def truncate_after(path: Path, step: int) -> None:
    """Drop the rows of steps later than `step`, which a resumed run writes again.

    Rows without a step stay. Kept lines stay as they are, to the byte: another program may have written NaN.

    Raises:
        DataError: a line is no row, or its step is no number.
    """
    if not path.exists():
        return
    kept: list[bytes] = []
    for (number, line), row in zip(lines(path), read(path), strict=False):
        at = row.get("step", step)
        if isinstance(at, bool) or not isinstance(at, int | float) or math.isnan(at):
            raise DataError(
                f"{path}:{number}: `step` is {at!r}, not a number",
                hint="another program wrote this line: correct or remove it, and run the same command again",
            )
        if at <= step and isinstance(line, bytes):
            kept.append(line.rstrip(b"\r\n") + b"\n")
    write_bytes(path, b"".join(kept))


def _remove_torn_line(path: Path) -> None:
    with open_regular(path):  # refuses a pipe, for whose end one would wait
        pass
    with open(path, "r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        if end < size:
            file.truncate(end)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
