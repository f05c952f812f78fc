"""Time and memory of work on a CUDA device, beside a peer's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch

from harness import Measurement, Work

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one run of some work."""

    ms: float  # median over the runs
    extra_gib: float  # the most memory beyond what was allocated before
    total_gib: float  # the most memory, what was allocated before included


def cost(work: Work, *, seconds: float = 1.0, most: int = 20) -> Cost:
    """Run `work` once to compile and to fill the allocator, then for `seconds`, 3 to `most` times.

    Work that takes long runs less often: no further run begins after five times `seconds`.
    """
    work()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < most:
        passed = time.perf_counter() - began
        if times and passed > (seconds if len(times) >= 3 else 5 * seconds):
            break
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    peak = torch.cuda.max_memory_allocated()
    return Cost(ms=median(times), extra_gib=(peak - before) / GIB, total_gib=peak / GIB)


def compare(
    what: str, ours: Work, theirs: Work, peer: str, *, floor_ms: float | None = None, floor_is: str = ""
) -> Iterator[Measurement]:
    """Milliseconds and extra memory of both. A peer that does not fit the device has no numbers, which is said."""
    own = cost(ours)
    other, said = _peer(theirs, peer)
    yield Measurement(
        what=what,
        ours=own.ms,
        unit="ms",
        peer=said,
        theirs=None if other is None else other.ms,
        floor=floor_ms,
        floor_is=floor_is,
    )
    yield Measurement(
        what=f"{what}: extra memory",
        ours=own.extra_gib,
        unit="GiB",
        peer=said,
        theirs=None if other is None else other.extra_gib,
    )


def compare_rates(what: str, tokens: int, ours: Work, theirs: Work, peer: str) -> Iterator[Measurement]:
    """Tokens per second, and the most memory in all."""
    own = cost(ours)
    other, said = _peer(theirs, peer)
    yield Measurement(
        what=what,
        ours=tokens / own.ms * 1e3,
        unit="tokens/s",
        peer=said,
        theirs=None if other is None else tokens / other.ms * 1e3,
        is_rate=True,
    )
    yield Measurement(
        what=f"{what}: memory",
        ours=own.total_gib,
        unit="GiB",
        peer=said,
        theirs=None if other is None else other.total_gib,
    )


def _peer(work: Work, name: str) -> tuple[Cost | None, str]:
    try:
        return cost(work), name
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None, f"{name}: out of memory"
