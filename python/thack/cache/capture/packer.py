"""A thread that packs, writes and commits the targets that the teacher's thread selects."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Queue
from types import TracebackType

import numpy as np

from thack import _native
from thack.cache.capture.scorer import Scored
from thack.cache.capture.shards import committed
from thack.cache.format.plan import CachePlan, shard_path
from thack.cache.format.records import encode, realised_log_probs
from thack.data.sequence import TokenSequence, cache_positions
from thack.schema.cache import CommittedShard

_DEPTH = 2  # batches that may wait


class Packer:
    """Packs batches into shards, one open at a time. The teacher's thread calls `begin`, `put` for each batch, `end`.

    While a shard is synced to disk, the teacher scores the next one. Leaving the context waits until every shard that
    was ended is committed, abandons one that was not, and raises the error of the thread. After an error the thread
    still empties its queue, so that the teacher's thread is not blocked for ever (pitfall 22).

    Args:
        directory: of the cache.
        plan: of the cache.
        journal: called with every shard that was committed.
    """

    def __init__(
        self, directory: Path, plan: CachePlan, journal: Callable[[CommittedShard], None] | None = None
    ) -> None:
        self._directory = directory
        self._plan = plan
        self._journal = journal
        self._layout = plan.layout
        self._writer: _native.ShardWriter | None = None
        self._shard, self._started = 0, 0.0
        self._queue: Queue[Callable[[], None] | None] = Queue(_DEPTH)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="thack-packer", daemon=True)

    def begin(self, shard: int) -> None:
        """Open a shard; the next batches belong to it."""
        self._submit(lambda: self._open(shard))

    def put(self, batch: Sequence[TokenSequence], scored: Scored) -> None:
        """Add one batch; raises the error that stopped the thread."""
        self._submit(lambda: self._pack(batch, scored))

    def end(self) -> None:
        """Commit the shard: it has all its batches."""
        self._submit(self._commit)

    def __enter__(self) -> Packer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None and self._failure is not None:
            raise self._failure

    def _submit(self, work: Callable[[], None]) -> None:
        if self._failure is not None:
            raise self._failure
        self._queue.put(work)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    work()
                except BaseException as failure:  # raised again in the teacher's thread
                    self._failure = failure
        if self._writer is not None:
            self._writer.abandon()

    def _open(self, shard: int) -> None:
        self._shard, self._started = shard, time.perf_counter()
        self._writer = _native.ShardWriter(shard_path(self._directory, shard), self._plan.metadata(shard))

    def _pack(self, batch: Sequence[TokenSequence], scored: Scored) -> None:
        assert self._writer is not None, "put before begin"
        scored.wait()
        records = encode(scored.target, self._layout, seed=self._plan.seed, keys_N4=scored.keys_N4)
        self._writer.records(records)
        realised = np.split(realised_log_probs(scored.target), np.cumsum([len(s.response_ids) for s in batch])[:-1])
        for position, s, of_s in zip(cache_positions(batch), batch, realised, strict=True):
            numbers = (position, s.example, s.sample)
            self._writer.sequence(numbers, s.prompt_id, _ids(s.prompt_ids), _ids(s.response_ids), of_s)

    def _commit(self) -> None:
        assert self._writer is not None, "end before begin"
        found = committed(self._shard, self._writer, self._started)
        self._writer = None
        if self._journal is not None:
            self._journal(found)


def _ids(ids: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(ids, dtype=np.int32)
