"""Files of a cache beside its shards: manifest.json, ends.json, writer.json, and the journal of a capture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from thack.errors import DataError
from thack.files import canonical_json
from thack.schema import document
from thack.schema.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprints:
    """Hashes of what a cache is made from."""

    teacher: str
    tokenizer: str
    data: str  # of the token ids, their order and the names of the prompts
    settings: str  # of those that change what is stored
    head: str = ""  # of the head that projected records are of; empty, and not written: they are of none


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard, as manifest.json lists it."""

    tokens: int  # response tokens: records
    sequences: int
    bytes: int  # of the file
    root: str  # hash of the file's content, hexadecimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedShard(Document):
    """A line of a capture's journal: one shard that a process committed."""

    shard: int
    sequences: int
    tokens: int
    bytes: int
    root: str
    new: bool  # False: another process had committed the same shard before
    seconds: float


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
class ResponseEnds(Document):
    """ends.json: how the responses of a cache end.

    Args:
        eos: id behind responses given as text.
        turn: id with which the chat template closes a turn, or None.
        others: further ids that end a response.
        behind_turn: ids that the template writes behind its end of turn.
        maximum: longest response in tokens; 0: it is not known.
    """

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = "ends.json"

    eos: int
    turn: int | None
    others: tuple[int, ...]
    behind_turn: tuple[int, ...]
    maximum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseWriter(Document):
    """writer.json: who wrote the responses of a cache.

    Args:
        model: its fingerprint.
        sampling: the settings of the same name.
    """

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = "writer.json"

    model: str
    sampling: Mapping[str, object]
