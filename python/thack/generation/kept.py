"""Responses of work that is not complete yet: committed batch by batch, so that a stop loses none of them.

One JSON line per batch behind a line that says what the responses depend on. A line is durable within a second of its
batch; what a kill left torn is dropped, and sampled again to the same ids. The file goes once the work is complete.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from time import monotonic

import numpy as np

from thack.errors import DataError, MismatchError
from thack.files import explained
from thack.reading import MOST_BYTES, BadJson, line_at, open_regular, parse_line
from thack.runtime.runlog import RunLog
from thack.schema.generation import KeptBatch, KeptFacts

_SYNC_S = 1.0  # between two syncs: a batch of a small model takes milliseconds


class KeptResponses:
    """The batches of one generation in a file; those of an earlier start are found again."""

    def __init__(self, path: Path, facts: Mapping[str, object]) -> None:
        """Open the file, or begin it.

        Args:
            path: of the file.
            facts: all that the responses depend on, as plain values.

        Raises:
            MismatchError: the file holds responses that depend on something else.
        """
        self._path = path
        self._places: dict[bytes, int] = {}  # where the line of each batch begins
        self.num_responses = 0  # that are kept
        self._synced = monotonic()
        header = KeptFacts(facts=dict(facts))
        found, size = _read(path)
        if found is not None:
            _check(path, found[0], header)
            self._places, self.num_responses = found[1], found[2]
            with open(path, "r+b") as file:
                file.truncate(size)
        else:
            path.unlink(missing_ok=True)
        self._log = RunLog(path)
        if found is None:
            self._log.append(header.dump())
        self._size = path.stat().st_size

    def find(self, stream: int, rows: Sequence[int]) -> list[np.ndarray] | None:
        """The responses of a batch, int32 each; None if it is not kept."""
        place = self._places.get(_key(stream, rows))
        if place is None:
            return None
        with explained(self._path), open(self._path, "rb") as file:
            file.seek(place)
            batch = KeptBatch.parse(parse_line(file.readline()), str(self._path))
        return [np.asarray(ids, dtype=np.int32) for ids in batch.responses]

    def add(self, stream: int, rows: Sequence[int], responses: Sequence[np.ndarray]) -> None:
        """Keep a batch.

        Args:
            stream: which of several generations of this work it is of.
            rows: numbers of its prompts.
            responses: one for each, token ids.
        """
        batch = KeptBatch(stream=stream, rows=tuple(rows), responses=tuple(tuple(r.tolist()) for r in responses))
        self._places[_key(stream, rows)] = self._size
        self._log.append(batch.dump())
        self._size = self._path.stat().st_size
        self.num_responses += len(batch.rows)
        if monotonic() - self._synced > _SYNC_S:
            with explained(self._path):
                self._log.sync()
            self._synced = monotonic()

    def close(self) -> None:
        """Keep the file for the next start."""
        self._log.close()

    def remove(self) -> None:
        """The work is complete: its result holds the responses."""
        self._log.close()
        self._path.unlink(missing_ok=True)

    def stream(self, number: int) -> KeptStream:
        """One of several generations of this work."""
        return KeptStream(self, number)


@dataclass(frozen=True, slots=True)
class KeptStream:
    """The batches of one generation."""

    responses: KeptResponses
    number: int

    def find(self, rows: Sequence[int]) -> list[np.ndarray] | None:
        """As `KeptResponses.find`."""
        return self.responses.find(self.number, rows)

    def add(self, rows: Sequence[int], responses: Sequence[np.ndarray]) -> None:
        """As `KeptResponses.add`."""
        self.responses.add(self.number, rows, responses)


def _key(stream: int, rows: Sequence[int]) -> bytes:
    """A short name of a batch: a file may hold many."""
    return blake2b(np.asarray([stream, *rows], dtype="<i8").tobytes(), digest_size=16).digest()


def _read(path: Path) -> tuple[tuple[KeptFacts, dict[bytes, int], int] | None, int]:
    """What the file begins with, where its batches are up to the first damaged line, how many responses they hold,
    and the length of all that in bytes.
    """
    header: KeptFacts | None = None
    places: dict[bytes, int] = {}
    responses = size = 0
    if not os.path.lexists(path):
        return None, 0
    with open_regular(path) as file, suppress(BadJson, DataError):  # torn, or zeros that a power loss left
        while (found := line_at(file, MOST_BYTES))[1]:
            line, length = found
            raw = parse_line(line)
            if header is None:
                header = KeptFacts.parse(raw, str(path))
            elif isinstance(line, bytes) and line.endswith(b"\n"):
                batch = KeptBatch.parse(raw, str(path))
                places[_key(batch.stream, batch.rows)] = size
                responses += len(batch.rows)
            size += length
    return (None if header is None else (header, places, responses)), size


def _check(path: Path, there: KeptFacts, now: KeptFacts) -> None:
    changed = [key for key in now.facts if there.facts.get(key) != now.facts[key]]
    if changed:
        raise MismatchError(
            f"{path.parent} holds a part of other responses",
            details=[f"{key}  {there.facts.get(key)!r} there, {now.facts[key]!r} now" for key in changed],
            hint=f"give another `out`, or remove {path}",
        )
