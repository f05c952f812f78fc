"""Random access to a complete cache."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thack import _native
from thack.cache.format.ahead import read_ahead
from thack.cache.format.layout import RecordLayout
from thack.cache.format.manifest import read_manifest
from thack.cache.format.plan import JOURNAL, SHARDS, CachePlan, read_plan
from thack.cache.format.records import decode
from thack.data.sequence import TokenSequence
from thack.errors import UsageError
from thack.runtime import runlog
from thack.schema.cache import CacheManifest
from thack.schema.metric_rows import number
from thack.schema.run import CacheCosts
from thack.targets.types import Target

_RECENT_SEQUENCES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMeta:
    """What a cache holds and what it was made from.

    Args:
        kind: of the target: dense, top-k or sampled.
        k: ids per token; V for a dense target.
        vocab_size: V.
        temperatures: further temperatures at which the tail mass is stored (top-k).
        has_tail: the tail mass is known.
        stride: bytes per record in the tensor `records` of a shard.
        bytes_per_token: of a record with the log-probability of the realised token.
        num_sequences: sequences.
        num_tokens: response tokens: records.
        num_shards: shards.
        num_bytes: size of all shards.
        teacher: fingerprint of the teacher.
        tokenizer: fingerprint of the tokenizer.
        data: fingerprint of the data.
        fingerprint: of the plan; identifies the cache.
    """

    kind: str
    k: int
    vocab_size: int
    temperatures: tuple[float, ...]
    has_tail: bool
    stride: int
    bytes_per_token: int
    num_sequences: int
    num_tokens: int
    num_shards: int
    num_bytes: int
    teacher: str
    tokenizer: str
    data: str
    fingerprint: str


class Cache:
    """Random access to the sequences of a complete cache and to the teacher's targets for them.

    A sequence is named by its position in the cache, 0 ≤ position < len(cache). Every chunk that is read is checked
    against its CRC32C. At most 64 files are open, memory does not grow with the number of shards, and an object may
    cross a fork or be pickled to another process.

    Example:
        >>> import json, tempfile
        >>> from thack.cache import ImportSettings, import_cache
        >>> scratch = Path(tempfile.mkdtemp())
        >>> rows = [None, {"5": -0.1, "7": -3.0}, {"0": -0.2, "5": -2.0}]
        >>> row = {"prompt_token_ids": [3, 5, 0], "prompt_length": 1, "prompt_logprobs": rows}
        >>> _ = (scratch / "rows.jsonl").write_text(json.dumps(row))
        >>> source, out = scratch / "rows.jsonl", scratch / "cache"
        >>> _ = import_cache(ImportSettings(source=source, out=out, vocab_size=10, tokenizer="sha256:…"))
        >>> cache = Cache.open(out)
        >>> len(cache), cache.num_tokens, cache.meta.kind
        (1, 2, 'top-k')
        >>> cache.sequences(0).response_ids.tolist()
        [5, 0]
        >>> sequences, target = cache.targets([0])
        >>> target.ids_NK.tolist()
        [[5, 7], [0, 5]]
    """

    def __init__(self, directory: Path, plan: CachePlan, manifest: CacheManifest) -> None:
        self.directory = directory
        self._plan = plan
        self._layout = plan.layout
        self._manifest = manifest
        self._reader: _native.CacheReader | None = None
        self._reader_pid = 0
        self._recent: OrderedDict[int, TokenSequence] = OrderedDict()

    @classmethod
    def open(cls, directory: Path | str) -> Cache:
        """Open a complete cache.

        Args:
            directory: of the cache, as `thack cache-logits` or `thack cache import` wrote it.

        Returns:
            The cache. No shard is read yet.

        Raises:
            CacheError: the directory is not a cache, or the cache is incomplete or damaged.
        """
        directory = Path(directory).expanduser()
        plan = read_plan(directory)
        return cls(directory, plan, read_manifest(directory, plan))

    def __len__(self) -> int:
        return self._plan.num_sequences

    def __reduce__(self) -> tuple[Callable[[str], Cache], tuple[str]]:
        return (Cache.open, (str(self.directory),))

    @property
    def num_tokens(self) -> int:
        """Response tokens, and so records, of the whole cache."""
        return self._manifest.tokens

    @property
    def layout(self) -> RecordLayout:
        """What is stored of each distribution."""
        return self._layout

    @property
    def plan(self) -> CachePlan:
        """Which sequences are in which shard, and how the cache was computed."""
        return self._plan

    def costs(self) -> CacheCosts:
        """What it holds, and what it has cost.

        Returns:
            Sequences, tokens, bytes, and the seconds of all its processes by their journals; None: an imported cache
            has no journal.
        """
        rows = [row for path in sorted((self.directory / JOURNAL).glob("*.jsonl")) for row in runlog.read(path)]
        seconds = [found for row in rows if (found := number(row.get("seconds"))) is not None]
        held = self._manifest
        return CacheCosts(
            sequences=held.sequences, tokens=held.tokens, bytes=held.bytes, seconds=sum(seconds) if seconds else None
        )

    @property
    def meta(self) -> CacheMeta:
        """Kind, sizes and fingerprints."""
        plan, spec = self._plan, self._layout.spec
        return CacheMeta(
            kind=spec.kind,
            k=spec.k or self._layout.vocab_size,
            vocab_size=self._layout.vocab_size,
            temperatures=spec.temperatures,
            has_tail=spec.kind != "top-k" or spec.tail != "none",
            stride=self._layout.stride,
            bytes_per_token=plan.bytes_per_token,
            num_sequences=len(self),
            num_tokens=self._manifest.tokens,
            num_shards=plan.num_shards,
            num_bytes=self._manifest.bytes,
            teacher=plan.fingerprints.teacher,
            tokenizer=plan.fingerprints.tokenizer,
            data=plan.fingerprints.data,
            fingerprint=plan.fingerprint,
        )

    def sequences(self, position: int) -> TokenSequence:
        """Read the token ids of one sequence, without its targets. The last 65,536 of them are kept in memory.

        Args:
            position: of the sequence in the cache.

        Returns:
            Its prompt and response, with `example`, `sample` and `position`.

        Raises:
            UsageError: there is no such position.
            CacheError: a shard is missing or damaged.
        """
        found = self._recent.get(position)
        if found is None:
            found = self._read([position], with_records=False)[0][0]
            self._recent[position] = found
            if len(self._recent) > _RECENT_SEQUENCES:
                self._recent.popitem(last=False)
        return found

    def many(self, positions: Sequence[int] | np.ndarray) -> list[TokenSequence]:
        """Read several sequences without their targets; none is kept in memory.

        Args:
            positions: as of `targets`.

        Returns:
            The sequences in the order of `positions`.

        Raises:
            UsageError: as `targets`.
            CacheError: as `targets`.
        """
        return self._read(positions, with_records=False)[0]

    def targets(self, positions: Sequence[int] | np.ndarray) -> tuple[list[TokenSequence], Target]:
        """Read sequences and the teacher's targets for their response tokens.

        Args:
            positions: in any order; repeats are allowed; at least one.

        Returns:
            The sequences in the order of `positions`, and one target whose N rows are their response tokens, one
            sequence after the other: row t of a sequence predicts its response token t. It is on the CPU.

        Raises:
            UsageError: `positions` is empty, or there is no such position.
            CacheError: a shard is missing or damaged.
        """
        sequences, records, realised = self._read(positions, with_records=True, with_realised=True)
        return sequences, decode(records, self._layout, realised)

    def realised(self, positions: Sequence[int] | np.ndarray) -> tuple[list[TokenSequence], np.ndarray]:
        """Read sequences and the log-probability that the teacher gave to each of their response tokens.

        It costs 2 bytes a token where `targets` reads whole records.

        Args:
            positions: as of `targets`.

        Returns:
            The sequences in the order of `positions`, and float32 log-probabilities of their response tokens, one
            sequence after the other, with an error of at most 2.5e-4. NaN: not known, as in all caches of format 1.0
            and in imports whose source does not say. The number just below −32: somewhere below −32 nats.

        Raises:
            UsageError: as `targets`.
            CacheError: as `targets`.
        """
        sequences, _, realised = self._read(positions, with_records=False, with_realised=True)
        if not self._plan.minor:
            return sequences, np.full(sum(len(s.response_ids) for s in sequences), np.nan, np.float32)
        return sequences, np.frombuffer(realised, np.float32)

    def prefetch(
        self, batches: Iterable[Sequence[int]], depth: int = 2
    ) -> Generator[tuple[list[TokenSequence], Target], None, None]:
        """`targets` of each batch, read ahead by a thread.

        Args:
            batches: the positions of each batch.
            depth: batches that are read ahead, ≥ 1.

        Yields:
            What `targets` returns for each batch, in their order. Closing the generator ends the thread.

        Raises:
            UsageError: as `targets`.
            CacheError: as `targets`.
        """
        return read_ahead(self.targets, batches, depth)

    def _read(
        self, positions: Sequence[int] | np.ndarray, *, with_records: bool, with_realised: bool = False
    ) -> tuple[list[TokenSequence], bytearray, bytearray]:
        wanted = [int(i) for i in positions]
        if not wanted:
            raise UsageError("no sequences asked for")
        if min(wanted) < 0:
            raise UsageError(f"no sequence {min(wanted)}: sequences are counted from 0")
        read = self._open_reader().read
        packed, names, prompts, responses, records, realised = read(wanted, with_records, with_realised)
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
        return sequences, records, realised

    def _open_reader(self) -> _native.CacheReader:
        """The native reader of this process. After a fork a new one is needed: a lock that was taken stays taken."""
        if self._reader is None or self._reader_pid != os.getpid():
            shards = self.directory / SHARDS
            expected = self._plan.identity() | self._layout.metadata()
            self._reader = _native.CacheReader(shards, list(self._plan.firsts), expected)
            self._reader_pid = os.getpid()
        return self._reader
