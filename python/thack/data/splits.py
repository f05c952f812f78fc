"""Disjoint sets of prompts by the hash of their ids: adding prompts moves few of the old ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from thack.data.records import Record
from thack.errors import UsageError


def split_by_hash(records: Sequence[Record], sizes: Mapping[str, int], *, salt: str = "") -> dict[str, list[Record]]:
    """Deal distinct prompts out by the order of hash(salt, id): a given number to each name, no prompt twice.

    All records of a prompt go to the same set. Independent of the order of `records`.
    """
    by_id: dict[str, list[Record]] = {}
    for record in records:
        by_id.setdefault(record.prompt_id, []).append(record)
    wanted = sum(sizes.values())
    if wanted > len(by_id):
        raise UsageError(
            f"the splits want {wanted:,} prompts, there are {len(by_id):,} distinct ones",
            details=[f"{name}: {size:,}" for name, size in sizes.items()],
            hint="ask for fewer",
        )
    order = sorted(by_id, key=lambda key: hashlib.sha256(f"{salt}\0{key}".encode()).digest())
    splits: dict[str, list[Record]] = {}
    start = 0
    for name, size in sizes.items():
        splits[name] = [record for key in order[start : start + size] for record in by_id[key]]
        start += size
    return splits
