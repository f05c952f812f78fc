"""Whether a cache is what was written: every shard, its checksums, its records, the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thack.cache.format.manifest import NAME, finish, load_manifest, read_shard
from thack.cache.format.plan import Plan, read_plan, shard_path
from thack.errors import CacheError, MismatchError
from thack.runtime.progress import SILENT, Progress


def verify(directory: Path | str, full: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Look at every shard: trailer, length, header and index; with `full`, every byte and record.

    Damage is reported, not raised: `ok`, and under `damaged` the shard's file and the cause of each.
    """
    directory = Path(directory).expanduser()
    plan = read_plan(directory)
    damaged: list[dict[str, Any]] = []
    manifest = _manifest(directory, plan, damaged)
    rows = manifest["shards"] if manifest else []
    tokens = size = 0
    with progress.task("verify", plan.num_shards, "shards") as task:
        for number in range(plan.num_shards):
            path = shard_path(directory, number)
            try:
                found = read_shard(directory, plan, number, full=full)
                tokens, size = tokens + found.tokens, size + found.size
                cause = _other_root(found.root, rows[number]["root"]) if rows else None
            except CacheError as error:
                cause = error.message.removeprefix(f"{path}: ")
            if cause is not None:
                damaged.append({"shard": number, "file": str(path), "cause": cause})
            task.advance(1)
    return {
        "directory": str(directory),
        "ok": not damaged and manifest is not None,
        "complete": manifest is not None,
        "full": full,
        "shards": plan.num_shards,
        "sequences": plan.num_sequences,
        "tokens": tokens,
        "bytes": size,
        "damaged": damaged,
    }


def _manifest(directory: Path, plan: Plan, damaged: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The manifest, written now if nobody did: whoever first sees that a cache is whole says so."""
    try:
        return load_manifest(directory, plan) or finish(directory, plan)
    except (CacheError, MismatchError) as error:
        path = directory / NAME
        cause = error.message.removeprefix(str(path)).lstrip(": ")
        damaged.append({"shard": None, "file": str(path), "cause": f"{cause}; {error.hint}"})
        return None


def _other_root(found: str, expected: str) -> str | None:
    return None if found == expected else f"its root is {found[:16]}…, the manifest says {expected[:16]}…"
