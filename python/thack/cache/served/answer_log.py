"""The answers of a server that are in no shard yet: an append-only file, so that no answer is paid for twice.

An entry is a header (CRC-32 of the rest, bytes of the body, position of the sequence, number of response tokens) and a
body: the response's ids as int32, the log-probability of each as float32, and its records, all little-endian. An entry
of position −1 confirms all before it: the teacher was seen to be the same after they were given. Entries that were
never confirmed are dropped when the file is opened, since another model may have given them.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from thack.files import explained

_HEADER = struct.Struct("<IIqI")
_CONFIRMED = -1


class AnswerLog:
    """Answers by the position of their sequence.

    Args:
        path: of the file; created if it is missing.
        stride: bytes of a record.
    """

    def __init__(self, path: Path, stride: int) -> None:
        self._path, self._stride = path, stride
        self._places: dict[int, int] = {}
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115 - closed by the context
        self.unconfirmed = 0
        self.dropped = self._read()  # answers that were not confirmed

    def __contains__(self, position: int) -> bool:
        return position in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(
        self, position: int, response_ids: np.ndarray, realised: np.ndarray, records: bytes | bytearray | memoryview
    ) -> None:
        """Append one answer: ids, log-probability of each, and records."""
        assert len(records) == len(response_ids) * self._stride, "one record for each response token"
        ids = np.ascontiguousarray(response_ids, "<i4").tobytes() + np.ascontiguousarray(realised, "<f4").tobytes()
        self._places[position] = self._append(position, len(response_ids), ids + bytes(records))
        self.unconfirmed += 1

    def confirm(self) -> None:
        """All answers so far are the teacher's: make them durable."""
        if self.unconfirmed:
            self._append(_CONFIRMED, 0, b"")
            with explained(self._path):
                os.fsync(self._file.fileno())
            self.unconfirmed = 0

    def get(self, position: int) -> tuple[np.ndarray, np.ndarray, bytes]:
        """int32 ids of the response, float32 log-probability of each, and its records."""
        place = self._places[position]
        _, size, _, tokens = _HEADER.unpack(os.pread(self._file.fileno(), _HEADER.size, place))
        body = os.pread(self._file.fileno(), size, place + _HEADER.size)
        ids, realised = (np.frombuffer(body, kind, tokens, 4 * tokens * n) for n, kind in enumerate(("<i4", "<f4")))
        return ids.astype(np.int32), realised.astype(np.float32), body[8 * tokens :]

    def drop_unconfirmed(self) -> int:
        """Forget what was not confirmed; returns how many answers that were."""
        lost, self.unconfirmed = self.unconfirmed, 0
        self._places.clear()
        self._read()
        return lost

    def clear(self) -> None:
        """Forget everything: it is in a shard."""
        self._places.clear()
        self.unconfirmed = 0
        self._file.truncate(0)

    def _append(self, position: int, tokens: int, body: bytes) -> int:
        rest = _HEADER.pack(0, len(body), position, tokens)[4:] + body
        with explained(self._path):
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(struct.pack("<I", zlib.crc32(rest)) + rest)
            self._file.flush()
        return place

    def _read(self) -> int:
        """Find the confirmed entries and cut off what follows them; returns how many answers were cut off."""
        open_entries: dict[int, int] = {}
        end = 0
        for position, place, behind in self._entries():
            if position == _CONFIRMED:
                self._places |= open_entries
                open_entries.clear()
                end = behind
            else:
                open_entries[position] = place
        self._file.truncate(end)
        return len(open_entries)

    def _entries(self) -> Iterator[tuple[int, int, int]]:
        """Position, place and end of each intact entry, up to the first that is torn."""
        self._file.seek(0)
        place = 0
        while len(header := self._file.read(_HEADER.size)) == _HEADER.size:
            crc, size, position, _ = _HEADER.unpack(header)
            body = self._file.read(size)
            if len(body) < size or zlib.crc32(header[4:] + body) != crc:
                return
            yield position, place, place + _HEADER.size + size
            place += _HEADER.size + size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> AnswerLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
