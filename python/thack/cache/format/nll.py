"""The teacher's likelihood of the responses of a cache: mean and histogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from thack import _native
from thack.cache.format.plan import SHARDS, CachePlan
from thack.schema.cache_content import TeacherNll

_EDGES = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # nats
_COUNTED = 4096  # responses at most: a cache may hold 10⁸
_STEP = 256


def teacher_nll(directory: Path, plan: CachePlan) -> TeacherNll | None:
    """−log p of the tokens of the first few thousand responses of a complete cache; None of one of format 1.0."""
    if not plan.minor:
        return None
    reader = _native.CacheReader(directory / SHARDS, list(plan.firsts), plan.identity() | plan.layout.metadata())
    total, impossible, absent = 0.0, 0, 0
    counts = np.zeros(len(_EDGES), np.int64)
    last = min(plan.num_sequences, _COUNTED)
    for first in range(0, last, _STEP):
        found = reader.read(range(first, min(first + _STEP, last)), False, True)[5]
        nll = -np.frombuffer(found, np.float32).astype(np.float64)
        known = nll[~np.isnan(nll)]
        finite = known[np.isfinite(known)]
        absent += len(nll) - len(known)
        impossible += len(known) - len(finite)
        total += float(np.minimum(finite, _EDGES[-1]).sum())
        counts += np.bincount(np.searchsorted(_EDGES, finite, side="right") - 1, minlength=len(_EDGES))
    count = int(counts.sum())
    return TeacherNll(
        tokens=count,
        impossible=impossible,
        absent=absent,
        nats_per_token=total / count if count else None,
        edges=_EDGES,
        counts=tuple(counts.tolist()),
    )
