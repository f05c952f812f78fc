"""Random access to a finished cache, for training."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

from thack import _native
from thack.cache.format.layout import RecordLayout
from thack.cache.format.manifest import read_manifest
from thack.cache.format.plan import SHARDS, Plan, read_plan
from thack.cache.format.records import decode
from thack.data.sequence import TokenSequence
from thack.errors import UsageError
from thack.schema.cache import CacheManifest
from thack.targets.types import Target

_KEPT_SEQUENCES = 1 << 16  # token ids kept in memory by `sequences`


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMeta:
    """What a cache holds and what it was made of."""

    kind: str
    k: int
    vocab_size: int
    temperatures: tuple[float, ...]
    has_tail: bool
    stride: int
    num_sequences: int
    num_tokens: int
    num_shards: int
    num_bytes: int
    teacher: str
    tokenizer: str
    data: str
    fingerprint: str  # of the plan: names this cache


class Cache:
    """The sequences of a cache by number, 0 ≤ number < len, with what the teacher knew of each token.

    Every chunk that is read is checked against its CRC32C. At most 64 files are open, memory does not grow
    with the number of shards, and an object may cross a fork or be pickled to another process.
    """

    def __init__(self, directory: Path, plan: Plan, manifest: CacheManifest) -> None:
        self.directory = directory
        self._plan = plan
        self._layout = plan.layout
        self._tokens = manifest.tokens
        self._bytes = manifest.bytes
        self._identity = plan.identity()
        self._reader: _native.CacheReader | None = None
        self._reader_pid = 0
        self._kept: OrderedDict[int, TokenSequence] = OrderedDict()

    @classmethod
    def open(cls, directory: Path | str) -> Cache:
        """Open a finished cache. An unfinished one is refused, with how much of it is there."""
        directory = Path(directory).expanduser()
        plan = read_plan(directory)
        return cls(directory, plan, read_manifest(directory, plan))

    def __len__(self) -> int:
        return self._plan.num_sequences

    def __reduce__(self) -> tuple[Any, ...]:
        return (Cache.open, (str(self.directory),))

    @property
    def num_tokens(self) -> int:
        return self._tokens

    @property
    def layout(self) -> RecordLayout:
        return self._layout

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def meta(self) -> CacheMeta:
        plan, layout = self._plan, self._layout
        return CacheMeta(
            kind=layout.spec.kind,
            k=layout.vocab_size if layout.spec.kind == "dense" else layout.spec.k,
            vocab_size=layout.vocab_size,
            temperatures=layout.spec.temperatures,
            has_tail=layout.spec.kind != "top-k" or layout.spec.tail != "none",
            stride=layout.stride,
            num_sequences=len(self),
            num_tokens=self._tokens,
            num_shards=plan.num_shards,
            num_bytes=self._bytes,
            teacher=plan.fingerprints["teacher"],
            tokenizer=plan.fingerprints["tokenizer"],
            data=plan.fingerprints["data"],
            fingerprint=self._identity["plan"],
        )

    def sequences(self, position: int) -> TokenSequence:
        """The tokens of the sequence at `position` of the cache, 0 ≤ position < len."""
        found = self._kept.get(position)
        if found is None:
            found = self._read([position], with_records=False)[0][0]
            self._kept[position] = found
            if len(self._kept) > _KEPT_SEQUENCES:
                self._kept.popitem(last=False)
        return found

    def targets(self, positions: Sequence[int] | np.ndarray) -> tuple[list[TokenSequence], Target]:
        """Sequences in the order given, repeats allowed, and their rows packed one after the other."""
        sequences, records = self._read(positions, with_records=True)
        return sequences, decode(records, self._layout)

    def prefetch(
        self, batches: Iterable[Sequence[int]], depth: int = 2
    ) -> Generator[tuple[list[TokenSequence], Target], None, None]:
        """`targets` of each batch, read ahead by a thread of its own; its errors are raised here."""
        queue: Queue[Any] = Queue(maxsize=depth)
        stop = threading.Event()

        def work() -> None:
            try:
                for batch in batches:
                    if stop.is_set():
                        return
                    queue.put((self.targets(batch), None))
                queue.put((None, None))
            except BaseException as error:  # raised by the reader's side, where somebody listens
                queue.put((None, error))

        thread = threading.Thread(target=work, name="thack-prefetch", daemon=True)
        thread.start()
        try:
            while True:
                item, error = queue.get()
                if error is not None:
                    raise error
                if item is None:
                    return
                yield item
        finally:
            stop.set()
            while thread.is_alive():
                while not queue.empty():
                    queue.get()
                thread.join(timeout=0.01)

    def _read(
        self, positions: Sequence[int] | np.ndarray, *, with_records: bool
    ) -> tuple[list[TokenSequence], bytearray]:
        wanted = [int(i) for i in positions]
        if not wanted:
            raise UsageError("no sequences asked for")
        if min(wanted) < 0:
            raise UsageError(f"no sequence {min(wanted)}: sequences are counted from 0")
        packed, names, prompts, responses, records = self._open_reader().read(wanted, with_records)
        numbers = np.frombuffer(packed, np.int64).reshape(4, -1)
        prompt_ids = np.split(np.frombuffer(prompts, np.int32), np.cumsum(numbers[2])[:-1])
        response_ids = np.split(np.frombuffer(responses, np.int32), np.cumsum(numbers[3])[:-1])
        sequences = [
            TokenSequence(
                example=example,
                prompt_id=name,
                prompt_ids=prompt,
                response_ids=response,
                sample=sample,
                position=position,
            )
            for position, example, sample, name, prompt, response in zip(
                wanted, numbers[0].tolist(), numbers[1].tolist(), names, prompt_ids, response_ids, strict=True
            )
        ]
        return sequences, records

    def _open_reader(self) -> _native.CacheReader:
        """The native reader of this process: a lock held by a thread at a fork would never be released."""
        if self._reader is None or self._reader_pid != os.getpid():
            shards = self.directory / SHARDS
            expected = {**self._identity, **self._layout.metadata()}
            self._reader = _native.CacheReader(shards, list(self._plan.firsts), expected)
            self._reader_pid = os.getpid()
        return self._reader
