"""The teacher's likelihood of the responses of a cache: mean per token and per byte of text, and histogram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thack import _native
from thack.cache.format.plan import SHARDS, CachePlan
from thack.cache.format.tokenizer import read_tokenizer
from thack.data.tokenizer import Tokenizer
from thack.errors import ThackError
from thack.schema.cache_content import TeacherNll

_EDGES = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # nats
_COUNTED = 4096  # responses at most: a cache may hold 10⁸
_STEP = 256


def teacher_nll(directory: Path, plan: CachePlan) -> TeacherNll | None:
    """−log p of the tokens of the first few thousand responses of a complete cache; None of one of format 1.0."""
    if not plan.minor:
        return None
    reader = _native.CacheReader(directory / SHARDS, list(plan.firsts), plan.identity() | plan.layout.metadata())
    tokenizer = _tokenizer(directory, plan)
    total, impossible, absent = 0.0, 0, 0
    nats_of_text, num_bytes = 0.0, 0
    counts = np.zeros(len(_EDGES), np.int64)
    last = min(plan.num_sequences, _COUNTED)
    for first in range(0, last, _STEP):
        packed, _, _, responses, _, realised = reader.read(range(first, min(first + _STEP, last)), False, True)
        nll = -np.frombuffer(realised, np.float32).astype(np.float64)
        known = nll[~np.isnan(nll)]
        finite = known[np.isfinite(known)]
        absent += len(nll) - len(known)
        impossible += len(known) - len(finite)
        total += float(np.minimum(finite, _EDGES[-1]).sum())
        counts += np.bincount(np.searchsorted(_EDGES, finite, side="right") - 1, minlength=len(_EDGES))
        if tokenizer is not None:
            ends = np.frombuffer(packed, np.int64).reshape(4, -1)[3].cumsum()[:-1]
            ids = np.split(np.frombuffer(responses, np.int32), ends)
            nats, size = _of_text(ids, np.split(nll, ends), tokenizer)
            nats_of_text, num_bytes = nats_of_text + nats, num_bytes + size
    count = int(counts.sum())
    return TeacherNll(
        tokens=count,
        impossible=impossible,
        absent=absent,
        nats_per_token=total / count if count else None,
        nats_per_byte=nats_of_text / num_bytes if num_bytes else None,
        edges=_EDGES,
        counts=tuple(counts.tolist()),
    )


def _tokenizer(directory: Path, plan: CachePlan) -> Tokenizer | None:
    """The cache's own; None where there is none that reads its ids, so that the bytes of a text are not known."""
    try:
        return read_tokenizer(directory, plan.fingerprints.tokenizer)
    except ThackError:
        return None


def _of_text(ids: Sequence[np.ndarray], nll: Sequence[np.ndarray], tokenizer: Tokenizer) -> tuple[float, int]:
    """Nats, and bytes of UTF-8 without control tokens, of the responses of which every token has a finite −log p."""
    whole = [n for n, of_response in enumerate(nll) if np.isfinite(of_response).all()]
    nats = sum(float(np.minimum(nll[n], _EDGES[-1]).sum()) for n in whole)
    return nats, sum(len(tokenizer.decode(ids[n]).encode()) for n in whole)
