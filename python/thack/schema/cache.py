"""What a cache says of itself: manifest.json, and what `thack cache verify` finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from thack.errors import DataError
from thack.files import canonical_json
from thack.schema import document


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard, as manifest.json lists it."""

    tokens: int  # response tokens: records
    sequences: int
    bytes: int  # of the file
    root: str  # hash of the file's content, hexadecimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheManifest:
    """manifest.json: the mark of a complete cache."""

    kind: Literal["cache"] = "cache"
    format: Literal[1] = 1
    plan: str  # fingerprint of plan.json
    sequences: int
    tokens: int
    bytes: int
    shards: tuple[ShardEntry, ...]

    @classmethod
    def of(cls, plan: str, shards: Iterable[ShardEntry]) -> CacheManifest:
        """The manifest of these shards of a plan."""
        entries = tuple(shards)
        return cls(
            plan=plan,
            sequences=sum(entry.sequences for entry in entries),
            tokens=sum(entry.tokens for entry in entries),
            bytes=sum(entry.bytes for entry in entries),
            shards=entries,
        )

    def dump(self) -> bytes:
        """The content of the file."""
        return canonical_json(document.dump(self))

    @classmethod
    def parse(cls, raw: object, what: str = "manifest.json") -> CacheManifest:
        """The inverse of `dump`, from JSON that may hold anything.

        Raises:
            DataError: a key is missing or unknown, a value is of another type, or a sum is not that of the shards.
        """
        found = document.parse(cls, raw, what)
        try:
            is_same = canonical_json(raw) == cls.of(found.plan, found.shards).dump()
        except ValueError:  # NaN, or half a surrogate pair, under an unknown key
            is_same = False
        if not is_same:
            raise DataError(f"{what}: a key is unknown, or a sum is not that of the shards")
        return found


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
