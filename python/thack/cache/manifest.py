"""manifest.json: the sign that a cache is whole, written once by whoever first sees that it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thack import _thack
from thack.cache.plan import SHARDS, Plan, shard_path
from thack.errors import CacheError
from thack.files import canonical_json, read_json

NAME = "manifest.json"


def shard_is_good(directory: Path, plan: Plan, shard: int) -> bool:
    """Whether a shard has its length, trailer and header, and is the one of this plan and place."""
    path = shard_path(directory, shard)
    if not path.exists():
        return False
    try:
        _thack.verify_shard(path, False)
        found = _thack.shard_metadata(path)
    except CacheError:
        return False
    return found == plan.metadata(shard)


def missing(directory: Path, plan: Plan) -> Iterator[int]:
    """Shards of the plan that have to be made, or made anew."""
    return (shard for shard in range(plan.num_shards) if not shard_is_good(directory, plan, shard))


def finish(directory: Path, plan: Plan) -> dict[str, Any] | None:
    """Write the manifest if every shard is there, and remove what killed writers left; else None."""
    rows = []
    for shard in range(plan.num_shards):
        if not shard_is_good(directory, plan, shard):
            return None
        tokens, sequences, size, root = _thack.verify_shard(shard_path(directory, shard), False)
        rows.append({"tokens": tokens, "sequences": sequences, "bytes": size, "root": root})
    manifest: dict[str, Any] = {
        "kind": "cache",
        "format": 1,
        "plan": plan.fingerprint(),
        "sequences": plan.num_sequences,
        "tokens": sum(row["tokens"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "shards": rows,
    }
    _thack.publish(directory / NAME, canonical_json(manifest))
    _thack.sweep(directory)
    _thack.sweep(directory / SHARDS)
    return manifest


def read_manifest(directory: Path, plan: Plan) -> dict[str, Any]:
    """The manifest; made now if all shards are there and nobody noticed yet."""
    path = directory / NAME
    if not path.exists():
        manifest = finish(directory, plan)
        if manifest is None:
            done = plan.num_shards - sum(1 for _ in missing(directory, plan))
            raise CacheError(
                f"{directory} is not finished: {done} of {plan.num_shards} shards are there",
                hint="run the same cache-logits command again: it goes on",
            )
        return manifest
    manifest = read_json(path)
    found = manifest.get("plan") if isinstance(manifest, dict) else None
    if found != plan.fingerprint():
        raise CacheError(
            f"{path} belongs to another plan",
            details=[f"manifest {found}", f"plan     {plan.fingerprint()}"],
            hint="make the cache anew in another directory",
        )
    return dict(manifest)
