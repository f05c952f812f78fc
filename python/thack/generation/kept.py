"""Responses of work that is not complete yet: committed batch by batch, so that a stop loses none of them.

One JSON line per batch behind a line that says what the responses depend on. A line is durable within a second of its
batch; what a kill left torn is dropped, and sampled again to the same ids. The file goes once the work is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np

from thack.errors import DataError, MismatchError
from thack.files import explained
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
        self._batches: dict[tuple[int, tuple[int, ...]], KeptBatch] = {}
        self._synced = monotonic()
        header = KeptFacts(facts=dict(facts))
        found, size = _read(path)
        if found is not None:
            _check(path, found[0], header)
            self._batches = {(batch.stream, batch.rows): batch for batch in found[1]}
            with open(path, "r+b") as file:
                file.truncate(size)
        else:
            path.unlink(missing_ok=True)
        self._log = RunLog(path)
        if found is None:
            self._log.append(header.dump())

    @property
    def num_responses(self) -> int:
        """How many are kept."""
        return sum(len(batch.rows) for batch in self._batches.values())

    def find(self, stream: int, rows: Sequence[int]) -> list[np.ndarray] | None:
        """The responses of a batch, int32 each; None if it is not kept."""
        batch = self._batches.get((stream, tuple(rows)))
        return None if batch is None else [np.asarray(ids, dtype=np.int32) for ids in batch.responses]

    def add(self, stream: int, rows: Sequence[int], responses: Sequence[np.ndarray]) -> None:
        """Keep a batch.

        Args:
            stream: which of several generations of this work it is of.
            rows: numbers of its prompts.
            responses: one for each, token ids.
        """
        batch = KeptBatch(stream=stream, rows=tuple(rows), responses=tuple(tuple(r.tolist()) for r in responses))
        self._batches[stream, batch.rows] = batch
        self._log.append(batch.dump())
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


def _read(path: Path) -> tuple[tuple[KeptFacts, list[KeptBatch]] | None, int]:
    """What the file begins with, its batches up to the first damaged line, and the length of that in bytes."""
    header: KeptFacts | None = None
    batches: list[KeptBatch] = []
    size = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                raw = json.loads(line)
                if header is None:
                    header = KeptFacts.parse(raw, str(path))
                elif line.endswith(b"\n"):
                    batches.append(KeptBatch.parse(raw, str(path)))
                size += len(line)
    except FileNotFoundError:
        pass
    except (ValueError, RecursionError, DataError):  # torn, or zeros that a power loss left
        pass
    return (None if header is None else (header, batches)), size


def _check(path: Path, there: KeptFacts, now: KeptFacts) -> None:
    changed = [key for key in now.facts if there.facts.get(key) != now.facts[key]]
    if changed:
        raise MismatchError(
            f"{path.parent} holds a part of other responses",
            details=[f"{key}  {there.facts.get(key)!r} there, {now.facts[key]!r} now" for key in changed],
            hint=f"give another `out`, or remove {path}",
        )
