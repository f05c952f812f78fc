"""Whether a cache is what was written: every shard, its checksums, its records, the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thack import _thack
from thack.cache.manifest import NAME, finish
from thack.cache.plan import read_plan, shard_path
from thack.errors import CacheError
from thack.files import read_json
from thack.runtime.progress import SILENT, Progress


def verify(directory: Path | str, full: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Look at every shard: trailer, length, header and index; with `full`, every byte and record.

    Damage is reported, not raised: `ok`, and under `damaged` the shard's file and the cause of each.
    """
    directory = Path(directory).expanduser()
    plan = read_plan(directory)
    if not (directory / NAME).exists():
        finish(directory, plan)  # whoever first sees that a cache is whole says so
    manifest = read_json(directory / NAME) if (directory / NAME).exists() else None
    rows = manifest["shards"] if manifest else []
    damaged: list[dict[str, Any]] = []
    tokens = size = 0
    with progress.task("verify", plan.num_shards, "shards") as task:
        for number in range(plan.num_shards):
            path = shard_path(directory, number)
            cause = None
            try:
                found = _thack.verify_shard(path, full)
                tokens, size = tokens + found[0], size + found[2]
                cause = _foreign(path, plan.metadata(number)) or _other_root(found, rows, number)
            except CacheError as error:
                cause = error.message.removeprefix(f"{path}: ")
            if cause is not None:
                damaged.append({"shard": number, "file": str(path), "cause": cause})
            task.advance(1)
    if manifest is not None and manifest.get("plan") != plan.fingerprint():
        damaged.append({"shard": None, "file": str(directory / NAME), "cause": "belongs to another plan"})
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


def _foreign(path: Path, expected: dict[str, str]) -> str | None:
    found = _thack.shard_metadata(path)
    for key, value in expected.items():
        if found.get(key) != value:
            return f"belongs elsewhere: {key} is {found.get(key)!r}, expected {value!r}"
    return None


def _other_root(found: tuple[int, int, int, str], rows: list[dict[str, Any]], number: int) -> str | None:
    if number < len(rows) and rows[number].get("root") != found[3]:
        return f"its root is {found[3][:16]}…, the manifest says {str(rows[number].get('root'))[:16]}…"
    return None
