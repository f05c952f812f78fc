"""What a cache says of itself (manifest.json), and what `thack cache` finds, estimates and compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from thack.errors import DataError
from thack.files import canonical_json
from thack.schema import document
from thack.schema.targets import CachedKind, TargetKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprints:
    """Hashes of what a cache is made from."""

    teacher: str
    tokenizer: str
    data: str  # of the token ids, their order and the names of the prompts
    settings: str  # of those that change what is stored


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard, as manifest.json lists it."""

    tokens: int  # response tokens: records
    sequences: int
    bytes: int  # of the file
    root: str  # hash of the file's content, hexadecimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedShard:
    """A line of a capture's journal: one shard that a process committed."""

    shard: int
    sequences: int
    tokens: int
    bytes: int
    root: str
    new: bool  # False: another process had committed the same shard before
    seconds: float

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheManifest:
    """manifest.json: the mark of a complete cache. `minor` is that of the plan, and is not written where it is 0."""

    kind: Literal["cache"] = "cache"
    format: Literal[1] = 1
    minor: int = 0
    plan: str  # fingerprint of plan.json
    sequences: int
    tokens: int
    bytes: int
    shards: tuple[ShardEntry, ...]

    @classmethod
    def of(cls, plan: str, shards: Iterable[ShardEntry], *, minor: int = 0) -> CacheManifest:
        """The manifest of these shards of a plan."""
        entries = tuple(shards)
        return cls(
            minor=minor,
            plan=plan,
            sequences=sum(entry.sequences for entry in entries),
            tokens=sum(entry.tokens for entry in entries),
            bytes=sum(entry.bytes for entry in entries),
            shards=entries,
        )

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        found = document.dump(self)
        if not self.minor:
            del found["minor"]
        return found

    @classmethod
    def parse(cls, raw: object, what: str = "manifest.json") -> CacheManifest:
        """The inverse of `dump`, from JSON that may hold anything.

        Raises:
            DataError: a key is missing or unknown, a value is of another type, or a sum is not that of the shards.
        """
        found = document.parse(cls, raw, what)
        try:
            is_same = canonical_json(raw) == canonical_json(cls.of(found.plan, found.shards, minor=found.minor).dump())
        except ValueError:  # NaN, or half a surrogate pair, under an unknown key
            is_same = False
        if not is_same:
            raise DataError(f"{what}: a key is unknown, or a sum is not that of the shards")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseEnds:
    """ends.json: how the responses of a cache end.

    Args:
        eos: id behind responses given as text.
        turn: id with which the chat template closes a turn, or None.
        others: further ids that end a response.
        behind_turn: ids that the template writes behind its end of turn.
        maximum: longest response in tokens; 0: it is not known.
    """

    SCHEMA: ClassVar[int] = 1

    eos: int
    turn: int | None
    others: tuple[int, ...]
    behind_turn: tuple[int, ...]
    maximum: int

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)

    @classmethod
    def parse(cls, raw: object, what: str = "ends.json") -> ResponseEnds:
        """The inverse of `dump`.

        Raises:
            DataError: a key is missing, or a value of another type.
        """
        return document.parse(cls, raw, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A file of a cache that is missing or damaged."""

    shard: int | None  # None: the manifest
    file: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
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
        damaged: what is missing or damaged.
    """

    directory: str
    ok: bool
    complete: bool
    full: bool
    shards: int
    sequences: int
    tokens: int
    bytes: int
    damaged: tuple[Damage, ...]

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)


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
        tokens: whose log-probability is known.
        absent: tokens whose log-probability the source did not say.
        nats_per_token: mean over `tokens`; one below −32 nats counts as 32. None where there is none.
        edges: in nats, of the bins of the histogram but the last.
        counts: tokens of each bin; the last is of all that lie beyond.
    """

    tokens: int
    absent: int
    nats_per_token: float | None
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
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

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureEstimate:
    """What a capture will cost: `thack cache-logits --dry-run`.

    Args:
        out: directory that the capture would write.
        sequences: number of sequences.
        tokens: response tokens, and so records.
        is_upper_bound: responses are still to be generated: `tokens` and `bytes` count their largest length.
        expected_tokens: response tokens at the mean length of a sample.
        shards: number of shards.
        bytes_per_token: of one record.
        bytes: of all shards.
        tokens_per_s: response tokens per second, by one process like this.
        seconds: time of the whole capture, by one process like this.
    """

    out: str
    sequences: int
    tokens: int
    is_upper_bound: bool
    expected_tokens: int
    shards: int
    bytes_per_token: int
    bytes: int
    tokens_per_s: float
    seconds: float

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCost:
    """What one kind of target keeps of a teacher, loses and costs. Means are over response tokens, in nats.

    Args:
        kind: of the target.
        ids: K, or V for a dense target.
        retained_mass: probability of the kept ids; 1 for an unbiased sample.
        tail_mass: probability of all other ids.
        kl_lost: Σ_{v∉S} p_v log(p_v / even share of the tail mass): what tells the ids of the tail apart, and is lost
            where the tail is kept as one number; 0 for a dense target and for an unbiased sample.
        kl_renormalised: KL(p ‖ p restricted to the kept ids and renormalised) = −log(retained mass), which is lost
            where the tail is dropped.
        noise: mean squared error Σ_v E(w_v − p_v)² of one unbiased sample.
        bytes_per_token: of one record.
        corpus_gb: size of the whole cache, in 10⁹ bytes.
    """

    kind: CachedKind
    ids: int
    retained_mass: float = 1.0
    tail_mass: float = 0.0
    kl_lost: float = 0.0
    kl_renormalised: float = 0.0
    noise: float = 0.0
    bytes_per_token: int
    corpus_gb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The kind of target to cache, and why."""

    kind: CachedKind
    ids: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSize:
    """What a cache of the whole corpus takes, by kind of target.

    Args:
        kind: of the target.
        ids: K, or V for a dense target.
        bytes: of all shards.
        shards: number of shards.
        inodes: number of files and directories.
        write_mb_per_s_per_node: what the teachers of one node write, in 10⁶ bytes per second.
        read_mb_per_s_per_gpu: what one GPU in training reads, in 10⁶ bytes per second.
        teacher_hours_per_process: time of the whole capture, by one process like this.
    """

    kind: CachedKind
    ids: int
    bytes: int
    shards: int
    inodes: int
    write_mb_per_s_per_node: float
    read_mb_per_s_per_gpu: float
    teacher_hours_per_process: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What `thack cache probe` measures: each kind of target on a sample of the data.

    Args:
        sampled_sequences: number of sequences that were scored.
        sampled_tokens: number of response tokens that were scored.
        entropy_nats: mean entropy of the teacher.
        corpus_tokens: response tokens of the corpus that is sized.
        rows: each kind of target.
        recommended: the kind to choose.
        epochs: planned passes over the cache.
        teacher_tokens_per_s: response tokens that this process scored per second.
        sizing: each kind of target, for the whole corpus.
        processes_per_node: teachers that one node is taken to run.
        student_tokens_per_s: response tokens per second that one GPU in training is taken to use.
    """

    sampled_sequences: int
    sampled_tokens: int
    entropy_nats: float
    corpus_tokens: int
    rows: tuple[TargetCost, ...]
    recommended: Recommendation
    epochs: int
    teacher_tokens_per_s: float
    sizing: tuple[CorpusSize, ...]
    processes_per_node: int
    student_tokens_per_s: int

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)
