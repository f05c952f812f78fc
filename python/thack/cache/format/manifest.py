"""manifest.json: the sign that a cache is whole, written once by whoever first sees that it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thack import _native
from thack.cache.format.plan import SHARDS, Plan, shard_path
from thack.errors import CacheError, DataError, MismatchError
from thack.files import canonical_json, read_json

NAME = "manifest.json"
_AGAIN = "delete it: thack cache verify writes it anew from the shards"


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that has its length, trailer and header, and is the one of its plan and place."""

    tokens: int
    sequences: int
    size: int
    root: str

    def row(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        return {"tokens": self.tokens, "sequences": self.sequences, "bytes": self.size, "root": self.root}


def read_shard(directory: Path, plan: Plan, shard: int, *, full: bool = False) -> Shard:
    """Look at a shard, at all of it with `full`; what is wrong with it is a `CacheError`."""
    path = shard_path(directory, shard)
    tokens, sequences, size, root, found = _native.verify_shard(path, full)
    for key, value in plan.metadata(shard).items():
        if found.get(key) != value:
            raise CacheError(f"{path}: belongs elsewhere: {key} is {found.get(key)!r}, expected {value!r}")
    if sequences != len(plan.shard(shard)):
        raise CacheError(f"{path}: holds {sequences} sequences, the plan says {len(plan.shard(shard))}")
    return Shard(tokens, sequences, size, root)


def shard_is_good(directory: Path, plan: Plan, shard: int) -> bool:
    """Whether a shard need not be made, or made anew."""
    if not shard_path(directory, shard).exists():
        return False
    try:
        read_shard(directory, plan, shard)
    except CacheError:
        return False
    return True


def missing(directory: Path, plan: Plan) -> Iterator[int]:
    """Shards of the plan that have to be made, or made anew."""
    return (shard for shard in range(plan.num_shards) if not shard_is_good(directory, plan, shard))


def finish(directory: Path, plan: Plan) -> dict[str, Any] | None:
    """Write the manifest if every shard is there, and remove what killed writers left; else None."""
    shards = []
    for shard in range(plan.num_shards):
        if not shard_path(directory, shard).exists():
            return None
        try:
            shards.append(read_shard(directory, plan, shard))
        except CacheError:
            return None
    manifest: dict[str, Any] = {
        "kind": "cache",
        "format": 1,
        "plan": plan.fingerprint(),
        "sequences": plan.num_sequences,
        "tokens": sum(shard.tokens for shard in shards),
        "bytes": sum(shard.size for shard in shards),
        "shards": [shard.row() for shard in shards],
    }
    try:
        _native.publish(directory / NAME, canonical_json(manifest))
    except MismatchError:
        _explain(directory, plan, manifest)
    _native.sweep(directory)
    _native.sweep(directory / SHARDS)
    return manifest


def read_manifest(directory: Path, plan: Plan) -> dict[str, Any]:
    """The manifest; made now if all shards are there and nobody noticed yet."""
    found = load_manifest(directory, plan)
    if found is None:
        found = finish(directory, plan)
    if found is None:
        done = plan.num_shards - sum(1 for _ in missing(directory, plan))
        raise CacheError(
            f"{directory} is not finished: {done} of {plan.num_shards} shards are there",
            hint="run the same cache-logits command again: it goes on",
        )
    return found


def load_manifest(directory: Path, plan: Plan) -> dict[str, Any] | None:
    """The manifest as it stands, checked against the plan; None if there is none."""
    path = directory / NAME
    if not path.exists():
        return None
    try:
        found = read_json(path)
    except DataError as error:
        raise CacheError(error.message, hint=_AGAIN) from error
    if not isinstance(found, dict) or found.get("plan") != plan.fingerprint():
        said = found.get("plan") if isinstance(found, dict) else type(found).__name__
        raise CacheError(
            f"{path} belongs to another plan",
            details=[f"manifest {said}", f"plan     {plan.fingerprint()}"],
            hint=_AGAIN,
        )
    given = found.get("shards")
    rows: list[Any] = given if isinstance(given, list) else []
    whole = len(rows) == plan.num_shards and all(map(_is_row, rows))
    if not whole or any(found.get(key) != _total(rows, key) for key in ("sequences", "tokens", "bytes")):
        raise CacheError(f"{path} is damaged: its shards are not those of the plan, or its sums are wrong", hint=_AGAIN)
    return found


def _is_row(row: Any) -> bool:
    numbers = ("tokens", "sequences", "bytes")
    return (
        isinstance(row, dict)
        and all(type(row.get(key)) is int and row[key] >= 0 for key in numbers)
        and isinstance(row.get("root"), str)
    )


def _total(rows: list[dict[str, Any]], key: str) -> int:
    return sum(row[key] for row in rows)


def _explain(directory: Path, plan: Plan, ours: dict[str, Any]) -> None:
    """Why a manifest that stands there is not the one of these shards."""
    theirs = load_manifest(directory, plan)
    rows = theirs["shards"] if theirs else []
    differing = [
        f"shard {number}  {there['root'][:16]}… in the manifest, {here['root'][:16]}… on disk"
        for number, (there, here) in enumerate(zip(rows, ours["shards"], strict=False))
        if there != here
    ]
    raise MismatchError(f"{directory / NAME} was written for other shards", details=differing[:8], hint=_AGAIN)
