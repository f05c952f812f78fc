"""A thread that packs, writes and commits what the teacher's thread selects, two batches behind at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from thack import _native
from thack.cache.format.plan import Plan, shard_path
from thack.cache.format.records import encode
from thack.data.sequence import TokenSequence
from thack.errors import ModelError

if TYPE_CHECKING:
    from thack.cache.capture.score import Scored

_DEPTH = 2
Numbered = Sequence[tuple[int, TokenSequence]]


class Packer:
    """Packs batches into shards, one open at a time: `begin`, `put` …, `end`, from the teacher's thread.

    While a shard is made durable the teacher goes on with the next. Leaving the context waits, commits
    what was ended, gives up what was not, and raises what the thread met. A failed thread goes on emptying
    its queue, so that nobody waits for it for ever (pitfall 22).
    """

    def __init__(self, directory: Path, plan: Plan, journal: Callable[[dict[str, Any]], None] | None = None) -> None:
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
        """What follows belongs to this shard."""
        self._hand_over(lambda: self._open(shard))

    def put(self, batch: Numbered, scored: Scored) -> None:
        """Hand over one batch; raises what stopped the thread."""
        self._hand_over(lambda: self._pack(batch, scored))

    def end(self) -> None:
        """The shard has all its batches."""
        self._hand_over(self._commit)

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

    def _hand_over(self, work: Callable[[], None]) -> None:
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

    def _pack(self, batch: Numbered, scored: Scored) -> None:
        assert self._writer is not None, "put before begin"
        scored.wait()
        records = encode(scored.target, self._layout, seed=self._plan.seed, keys_N4=scored.keys_N4)
        self._writer.records(records)
        for number, s in batch:
            _check_ids(s, self._layout.vocab_size)
            self._writer.sequence((number, s.example, s.sample), s.prompt_id, _ids(s.prompt_ids), _ids(s.response_ids))

    def _commit(self) -> None:
        assert self._writer is not None, "end before begin"
        tokens, sequences, size, root, is_new = self._writer.finish()
        self._writer = None
        if self._journal is not None:
            seconds = round(time.perf_counter() - self._started, 3)
            self._journal(
                {"shard": self._shard, "sequences": sequences, "tokens": tokens, "bytes": size}
                | {"root": root, "new": is_new, "seconds": seconds}
            )


def _check_ids(s: TokenSequence, vocab_size: int) -> None:
    least, most = int(s.response_ids.min()), int(s.response_ids.max())
    if least < 0 or most >= vocab_size:
        raise ModelError(
            f"prompt {s.prompt_id}: its response holds an id beyond the teacher's vocabulary",
            details=[f"id         {least if least < 0 else most}", f"vocabulary {vocab_size}"],
            hint="write the responses with this teacher's tokenizer",
        )


def _ids(ids: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(ids, dtype=np.int32)
