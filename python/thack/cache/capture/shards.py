"""What every job that writes a cache does with its shards: which are its own, what is recorded and said at the end."""

from __future__ import annotations

import time
from pathlib import Path

from thack import _native
from thack.cache.format.ends import count_ends
from thack.cache.format.manifest import finish, missing, shard_is_good
from thack.cache.format.plan import CachePlan
from thack.errors import plural
from thack.runtime.progress import Progress
from thack.runtime.ranks import Rank
from thack.schema.cache import CommittedShard


def wanted_shards(directory: Path, plan: CachePlan, rank: Rank, progress: Progress) -> list[int]:
    """Numbers of the shards that this process has to write: every world_size-th one that is not complete."""
    numbers = [n for n in range(plan.num_shards) if n % rank.world_size == rank.rank]
    wanted = [n for n in numbers if not shard_is_good(directory, plan, n)]
    if len(wanted) < len(numbers):
        progress.note(f"cache: {len(numbers) - len(wanted)} of {len(numbers)} shards are complete already")
    return wanted


def committed(shard: int, writer: _native.ShardWriter, started: float) -> CommittedShard:
    """Commit a shard that has all its sequences; `started` is when it was begun, by `time.perf_counter`."""
    tokens, sequences, size, root, is_new = writer.finish()
    return CommittedShard(
        shard=shard,
        sequences=sequences,
        tokens=tokens,
        bytes=size,
        root=root,
        new=is_new,
        seconds=round(time.perf_counter() - started, 3),
    )


def finish_cache(directory: Path, plan: CachePlan, progress: Progress, *, generated: bool) -> None:
    """Write the manifest if every shard is complete, and say what the cache holds and how generated responses end.

    Else say how many shards are missing: other ranks write them, and may have ended.
    """
    manifest = finish(directory, plan)
    if manifest is None:
        progress.note(
            f"cache: {sum(1 for _ in missing(directory, plan))} of {plan.num_shards} shards are not there yet: other "
            f"ranks write them; where one has ended, start it again (thack cache inspect {directory} lists them)"
        )
        return
    progress.note(
        f"cache: {plural(manifest.sequences, 'sequence')}, {plural(manifest.tokens, 'token')}, "
        f"{manifest.bytes / 1e6:,.1f} MB in {plural(plan.num_shards, 'shard')}"
    )
    ends = count_ends(directory, plan) if generated else None  # those of given responses were counted before
    for warning in ends.warnings() if ends else ():
        progress.note(f"warning: {warning}")
