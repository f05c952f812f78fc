"""manifest.json: the mark of a complete cache, written once by the first process that sees every shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from thack import _native
from thack.cache.format.plan import SHARDS, TOKENIZER, CachePlan, shard_path
from thack.errors import CacheError, DataError, MismatchError
from thack.files import canonical_json
from thack.reading import read_json
from thack.schema.cache import CacheManifest, ShardEntry

T = TypeVar("T")
NAME = "manifest.json"
_THREADS = 16  # that read shards
_REWRITE = "delete it: thack cache verify writes it again from the shards"


def read_shard(directory: Path, plan: CachePlan, shard: int, *, full: bool = False) -> ShardEntry:
    """Check the length, trailer and metadata of a shard, and with `full` every byte and record.

    Raises:
        CacheError: the shard is damaged, or belongs to another plan or another place of this one.
    """
    path = shard_path(directory, shard)
    if path.exists() and not path.is_file():  # a FIFO would keep the reader waiting
        raise CacheError(f"{path}: is no regular file")
    tokens, sequences, size, root, found = _native.verify_shard(path, full)
    for key, value in plan.metadata(shard).items():
        if found.get(key) != value:
            raise CacheError(f"{path}: belongs elsewhere: {key} is {found.get(key)!r}, expected {value!r}")
    if sequences != len(plan.shard(shard)):
        raise CacheError(f"{path}: holds {sequences} sequences, the plan says {len(plan.shard(shard))}")
    return ShardEntry(tokens=tokens, sequences=sequences, bytes=size, root=root)


def shard_is_good(directory: Path, plan: CachePlan, shard: int) -> bool:
    """Whether a shard need not be written or rewritten."""
    if not shard_path(directory, shard).exists():
        return False
    try:
        read_shard(directory, plan, shard)
    except CacheError:
        return False
    return True


def missing(directory: Path, plan: CachePlan) -> Iterator[int]:
    """Shards of the plan that have to be written or rewritten."""
    present = shards_present(directory, plan)
    found = each_shard(lambda shard: shard_is_good(directory, plan, shard), present)
    good = {shard for shard, is_good in zip(present, found, strict=True) if is_good}
    return (shard for shard in range(plan.num_shards) if shard not in good)


def shards_there(directory: Path) -> set[str]:
    """Names of the files in the directory of shards: listed once, since a plan may have millions."""
    try:
        return set(os.listdir(directory / SHARDS))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def shards_present(directory: Path, plan: CachePlan) -> list[int]:
    """Shards of the plan that have a file, good or not."""
    there = shards_there(directory)
    return [shard for shard in range(plan.num_shards) if _native.shard_name(shard) in there] if there else []


def each_shard(work: Callable[[int], T], shards: Sequence[int]) -> Iterator[T]:
    """`work` for every shard, in their order, on several threads: most of its time it waits for the file system."""
    pool = ThreadPoolExecutor(min(_THREADS, max(1, len(shards))), thread_name_prefix="thack-shards")
    try:
        yield from pool.map(work, shards)
    finally:
        pool.shutdown(cancel_futures=True)


def finish(directory: Path, plan: CachePlan) -> CacheManifest | None:
    """Write the manifest if every shard is complete, and remove what killed writers left; else None.

    Where nothing may be written, the manifest is returned alone.

    Raises:
        MismatchError: a manifest of other shards exists.
    """
    if len(shards_there(directory)) < plan.num_shards:
        return None
    try:
        shards = list(each_shard(lambda shard: read_shard(directory, plan, shard), range(plan.num_shards)))
    except CacheError:
        return None
    manifest = CacheManifest.of(plan.fingerprint, shards, minor=plan.minor)
    if not os.access(directory, os.W_OK):  # another user's, or on read-only media: complete all the same
        return manifest
    try:
        _native.publish(directory / NAME, canonical_json(manifest.dump()))
    except MismatchError:
        _explain(directory, plan, manifest)
    for folder in (directory, directory / SHARDS, directory / TOKENIZER):
        if folder.is_dir():
            _native.sweep(folder)
    return manifest


def read_manifest(directory: Path, plan: CachePlan) -> CacheManifest:
    """The manifest, written now if every shard is complete and no process has written it yet.

    Raises:
        CacheError: a shard is missing, or the manifest is damaged or belongs to another plan.
    """
    found = load_manifest(directory, plan) or finish(directory, plan)
    if found is None:
        complete = plan.num_shards - sum(1 for _ in missing(directory, plan))
        raise CacheError(
            f"{directory} is not finished: {complete} of {plan.num_shards} shards are complete",
            hint="run the same cache-logits command again to resume",
        )
    return found


def load_manifest(directory: Path, plan: CachePlan) -> CacheManifest | None:
    """The manifest in the directory; None if there is none.

    Raises:
        CacheError: it is damaged, or belongs to another plan.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        raw = read_json(path)
        if isinstance(raw, dict) and raw.get("plan") != plan.fingerprint:
            raise CacheError(
                f"{path} belongs to another plan",
                details=[f"manifest {raw.get('plan')}", f"plan     {plan.fingerprint}"],
                hint=_REWRITE,
            )
        found = CacheManifest.parse(raw, str(path))
    except DataError as error:
        raise CacheError(error.message, hint=_REWRITE) from error
    if found.minor != plan.minor:
        raise CacheError(f"{path} is of format 1.{found.minor}, the plan of 1.{plan.minor}", hint=_REWRITE)
    if [entry.sequences for entry in found.shards] != [len(plan.shard(n)) for n in range(plan.num_shards)]:
        raise CacheError(f"{path}: its shards are not those of the plan", hint=_REWRITE)
    return found


def _explain(directory: Path, plan: CachePlan, ours: CacheManifest) -> None:
    """Raise with the reason why the manifest in the directory is not the one of these shards."""
    theirs = load_manifest(directory, plan)
    differing = [
        f"shard {number}  {there.root[:16]}… in the manifest, {here.root[:16]}… on disk"
        for number, (there, here) in enumerate(zip(theirs.shards if theirs else (), ours.shards, strict=False))
        if there != here
    ]
    raise MismatchError(f"{directory / NAME} was written for other shards", details=differing[:8], hint=_REWRITE)
