"""A thread that packs and writes what the teacher's thread selects, two batches behind at most."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import Queue
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from thack import _thack
from thack.cache.plan import Plan
from thack.cache.records import encode
from thack.errors import ModelError
from thack.targets import TokenSequence

if TYPE_CHECKING:
    from thack.cache.score import Scored

_DEPTH = 2


class Packer:
    """Packs batches into one shard. As a context: leaving it waits, and raises what the thread met.

    A failed thread goes on emptying its queue, so that nobody waits for it for ever (trap 22).
    """

    def __init__(self, writer: _thack.ShardWriter, plan: Plan) -> None:
        self._writer = writer
        self._plan = plan
        self._layout = plan.record.layout()
        self._queue: Queue[tuple[Sequence[tuple[int, TokenSequence]], Scored] | None] = Queue(_DEPTH)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="thack-packer", daemon=True)

    def put(self, batch: Sequence[tuple[int, TokenSequence]], scored: Scored) -> None:
        """Hand over one batch; raises what stopped the thread."""
        if self._failure is not None:
            raise self._failure
        self._queue.put((batch, scored))

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

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._pack(*item)
                except BaseException as failure:  # raised again in the teacher's thread
                    self._failure = failure

    def _pack(self, batch: Sequence[tuple[int, TokenSequence]], scored: Scored) -> None:
        scored.wait()
        records = encode(scored.target, self._plan.record, self._layout, seed=self._plan.seed, keys_N4=scored.keys_N4)
        self._writer.records(records)
        for number, s in batch:
            if int(s.response_ids.max()) >= self._plan.record.vocab_size or int(s.response_ids.min()) < 0:
                raise ModelError(
                    f"prompt {s.prompt_id}: its response holds an id beyond the teacher's vocabulary",
                    details=[
                        f"id         {int(s.response_ids.max())}",
                        f"vocabulary {self._plan.record.vocab_size}",
                    ],
                    hint="write the responses with this teacher's tokenizer",
                )
            self._writer.sequence((number, s.index, s.sample), s.prompt_id, _ids(s.prompt_ids), _ids(s.response_ids))


def _ids(ids: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(ids, dtype=np.int32)
