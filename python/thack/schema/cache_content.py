"""What `thack cache inspect` and `thack cache verify` find in a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from thack.schema.document import Document
from thack.schema.targets import TargetKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A file of a cache that is missing or damaged."""

    shard: int | None  # None: the manifest
    file: str
    cause: str


MOST_MISSING = 1000  # shards that are named as missing: a plan may have millions


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification(Document):
    """What `thack cache verify` finds.

    Args:
        directory: of the cache.
        ok: every shard and the manifest are as they were written.
        complete: the manifest exists and belongs to the plan.
        full: every byte and record was read, not only the frame of each shard.
        shards: number of shards in the plan.
        sequences: number of sequences in the plan.
        tokens: response tokens in the intact shards.
        bytes: size of the intact shards.
        missing: shards of the plan that have no file.
        damaged: what is damaged, and the first MOST_MISSING shards that have no file.
    """

    directory: str
    ok: bool
    complete: bool
    full: bool
    shards: int
    sequences: int
    tokens: int
    bytes: int
    missing: int = 0
    damaged: tuple[Damage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """How a cache was computed."""

    thack: str  # version
    device: str
    dtype: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherNll:
    """−log p of the response tokens under the teacher, over the first few thousand responses of a cache.

    Args:
        tokens: whose log-probability is known, and not −∞.
        impossible: tokens of log-probability −∞: the teacher cannot say them.
        absent: tokens whose log-probability the source did not say.
        nats_per_token: mean over `tokens`; one below −32 nats counts as 32. None where there is none.
        nats_per_byte: the same sum over the bytes of text, in UTF-8 and without control tokens, of the responses whose
            tokens are all among `tokens`: it compares teachers of different tokenizers. None: there is none, or the
            cache holds no tokenizer that reads its ids.
        edges: in nats, of the bins of the histogram but the last.
        counts: tokens of each bin; the last is of all that lie beyond.
    """

    tokens: int
    impossible: int
    absent: int
    nats_per_token: float | None
    nats_per_byte: float | None
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection(Document):
    """What `thack cache inspect` shows.

    Args:
        directory: of the cache.
        complete: every shard is there.
        shards: number of shards in the plan.
        missing_shards: numbers of those that are missing or damaged, at most 100.
        kind: of the target.
        ids_per_token: K, or V for a dense target.
        vocab_size: V.
        bytes_per_token: of one record.
        temperatures: at which the tail mass of top-k is stored; none for other kinds.
        exact_tail: top-k: the tail mass is the teacher's own, not estimated or absent; None: there is no tail.
        precision: how far stored numbers may be from the teacher's.
        losses: for each divergence whether it is defined on these targets, and how well.
        sequences: number of sequences in the plan.
        tokens: response tokens; None while a shard is missing.
        bytes: of all shards; None while a shard is missing.
        fingerprints: of the plan, and of what the cache is made from.
        made_by: how it was computed.
        finished: share of the responses that an end closes; None: the cache is incomplete, or does not say.
        truncated: share of the responses that reached the maximum length without one, or None.
        teacher_nll: of the response tokens; None: the cache is incomplete, or of format 1.0.
    """

    directory: str
    complete: bool
    shards: int
    missing_shards: tuple[int, ...]
    kind: TargetKind
    ids_per_token: int
    vocab_size: int
    bytes_per_token: int
    temperatures: tuple[float, ...]
    exact_tail: bool | None
    precision: str
    losses: Mapping[str, str]
    sequences: int
    tokens: int | None
    bytes: int | None
    fingerprints: Mapping[str, str]
    made_by: Origin
    finished: float | None = None
    truncated: float | None = None
    teacher_nll: TeacherNll | None = None
