"""Whether a cache is what was written: every shard, its checksums, its records, the manifest."""

from __future__ import annotations

from pathlib import Path

from thack import _native
from thack.cache.format.manifest import NAME, each_shard, finish, load_manifest, read_shard, shards_present
from thack.cache.format.mass import heavy_row
from thack.cache.format.plan import SHARDS, CachePlan, read_plan, shard_path
from thack.errors import CacheError, MismatchError
from thack.runtime.progress import SILENT, Progress
from thack.schema.cache import CacheManifest, ShardEntry
from thack.schema.cache_content import MOST_MISSING, Damage, Verification

_SEQUENCES = 64  # read at a time


def verify(directory: Path | str, full: bool = False, progress: Progress = SILENT) -> Verification:
    """Check every shard and the manifest of a cache. Damage is reported, not raised.

    A manifest that no process has written yet is written, if every shard is complete.

    Args:
        directory: of the cache.
        full: read every byte and record, and the mass of each; False: trailer, length, header and index of each shard.
        progress: counts shards.

    Returns:
        `ok`, and for each damaged file its path and the cause.

    Raises:
        CacheError: the directory is not a cache.

    Example:
        >>> verify("no/such/cache")
        Traceback (most recent call last):
        ...
        thack.errors.CacheError: no/such/cache does not exist
          make a cache with: thack cache-logits
    """
    directory = Path(directory).expanduser()
    plan = read_plan(directory)
    damaged: list[Damage] = []
    manifest = _manifest(directory, plan, damaged)
    check = _ShardCheck(directory, plan, manifest, full=full)
    tokens = size = 0
    present = shards_present(directory, plan)
    absent = sorted(set(range(plan.num_shards)).difference(present))
    damaged += [_absent(directory, number) for number in absent[:MOST_MISSING]]
    with progress.task("verify", len(present), "shards") as task:
        for number, (found, cause) in zip(present, each_shard(check, present), strict=True):
            tokens, size = (tokens + found.tokens, size + found.bytes) if found else (tokens, size)
            if cause is not None:
                damaged.append(Damage(shard=number, file=str(shard_path(directory, number)), cause=cause))
            task.advance(1)
    return Verification(
        directory=str(directory),
        ok=not damaged and manifest is not None,
        complete=manifest is not None,
        full=full,
        shards=plan.num_shards,
        sequences=plan.num_sequences,
        tokens=tokens,
        bytes=size,
        missing=len(absent),
        damaged=tuple(sorted(damaged, key=lambda one: -1 if one.shard is None else one.shard)),
    )


def _absent(directory: Path, number: int) -> Damage:
    return Damage(shard=number, file=str(shard_path(directory, number)), cause="no such file or directory")


def _manifest(directory: Path, plan: CachePlan, damaged: list[Damage]) -> CacheManifest | None:
    try:
        return load_manifest(directory, plan) or finish(directory, plan)
    except (CacheError, MismatchError) as error:
        path = directory / NAME
        cause = error.message.removeprefix(str(path)).lstrip(": ")
        damaged.append(Damage(shard=None, file=str(path), cause=f"{cause}; {error.hint}"))
        return None


class _ShardCheck:
    """Checks one shard after the other, from any thread."""

    def __init__(self, directory: Path, plan: CachePlan, manifest: CacheManifest | None, *, full: bool) -> None:
        self._directory, self._plan, self._manifest, self._full = directory, plan, manifest, full
        expected = plan.identity() | plan.layout.metadata()
        self._reader = _native.CacheReader(directory / SHARDS, list(plan.firsts), expected)

    def __call__(self, number: int) -> tuple[ShardEntry | None, str | None]:
        """What the shard holds, if it can be read, and the cause if it is damaged."""
        found = None
        try:
            found = read_shard(self._directory, self._plan, number, full=self._full)
            cause = _difference(found, self._manifest.shards[number]) if self._manifest else None
            return found, cause or (self._heavy(number) if self._full and self._manifest else None)
        except CacheError as error:
            return found, error.message.removeprefix(f"{shard_path(self._directory, number)}: ")

    def _heavy(self, number: int) -> str | None:
        """The first record of a shard whose kept ids hold more mass than 1."""
        if self._plan.layout.kind != "top-k":
            return None
        positions = self._plan.shard(number)
        for first in range(positions.start, positions.stop, _SEQUENCES):
            wanted = list(range(first, min(first + _SEQUENCES, positions.stop)))
            records = self._reader.read(wanted, True)[4]
            if (heavy := heavy_row(records, self._plan.layout)) is not None:
                where = f"row {heavy.row} of the sequences from {first}"
                return f"{where} has a mass of {heavy.mass:.3f} on its kept ids: its numbers are no distribution"
        return None


def _difference(found: ShardEntry, expected: ShardEntry) -> str | None:
    """How a shard differs from its entry in the manifest."""
    if found.root != expected.root:
        return f"its root is {found.root[:16]}…, the manifest says {expected.root[:16]}…"
    if found != expected:
        return f"{found.tokens} tokens in {found.bytes} bytes, the manifest says {expected.tokens} in {expected.bytes}"
    return None
