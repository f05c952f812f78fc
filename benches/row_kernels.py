"""Selection and sampling per row and core against torch, NumPy and transformers, interleaved in one process.

The floor of each is one read of the same rows (a sum by torch). 64 rows, so that torch's temporaries of 39 MB are new
pages every time, as in a batch of a teacher or of generation, where they are larger still; with 16 they stay with the
allocator: shown too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import Measurement, Target, Work, interleaved, ratio
from thack import kernels

N, FEW, V, K = 64, 16, 151_936, 64


def measure() -> Iterator[Measurement]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # per core; the kernels follow torch's setting
    try:
        yield from selection()
        yield from sampling()
        yield from thresholds()
        yield from (scaling(normal().repeat(8, 1).to(dtype)) for dtype in (torch.float32, torch.bfloat16))
    finally:
        torch.set_num_threads(before)


def selection() -> Iterator[Measurement]:
    z = normal()
    families: dict[str, tuple[Tensor, Target | None]] = {
        "random f32": (z, ratio(15)),
        "Zipf-shaped f32": (zipf(), ratio(15)),
    }
    families |= {"random bf16": (z.bfloat16(), ratio(9)), "random f16": (z.half(), None)}
    for what, (x, target) in families.items():
        peer = "torch.topk + torch.logsumexp (no tail)"
        yield compare(f"top-64 + tail, {what}", peer, ours(x), by_torch(x), x, target, repeats=25)
    few = z[:FEW].contiguous()
    yield compare(f"top-64 + tail, random f32, {FEW} rows", peer, ours(few), by_torch(few), few, repeats=25)
    rows = z.numpy()
    partition = lambda: (np.argpartition(rows, V - K, axis=1), torch.logsumexp(z, 1))  # noqa: E731
    yield compare("top-64 + tail, random f32", "numpy.argpartition + torch.logsumexp", ours(z), partition, z)
    cached = z[:8].contiguous()  # both sides fit into the cache: the order alone differs
    orders = {"ascending": cached.sort(dim=1).values, "descending": cached.sort(dim=1, descending=True).values}
    orders |= {"constant": torch.zeros_like(cached)}
    for what, x in orders.items():
        goal = ratio(1 / 1.1)
        yield compare(
            f"top-64 + tail, {what} f32", "ours on random rows", ours(x), ours(cached), cached, goal, repeats=25
        )


def ours(z: Tensor) -> Work:
    return lambda: kernels.topk_logsumexp(z, K)


def by_torch(z: Tensor) -> Work:
    return lambda: (torch.topk(z, K), torch.logsumexp(z, 1))


def sampling() -> Iterator[Measurement]:
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    z, keys = normal(), torch.zeros(N, 4, dtype=torch.int64)
    keys[:, 1] = torch.arange(N)
    unused = torch.zeros(N, 1, dtype=torch.int64)

    def draw(**options: Any) -> Work:
        return lambda: kernels.sample(z, seed=0, keys_N4=keys, **options)

    def multinomial(warp: Callable[[Tensor], Tensor]) -> Work:
        return lambda: torch.multinomial(torch.softmax(warp(z), 1), 1)

    top_k, top_p = TopKLogitsWarper(50), TopPLogitsWarper(0.95)
    processors = "transformers' processor + softmax + multinomial"
    plain = multinomial(lambda x: x)
    yield compare("sample, T = 1", "softmax + multinomial", draw(), plain, z, ratio(80))
    yield compare("sample, T = 1", "softmax alone", draw(), lambda: torch.softmax(z, 1), z, ratio(10))
    few = z[:FEW].contiguous()
    ours_few = lambda: kernels.sample(few, seed=0, keys_N4=keys[:FEW])  # noqa: E731
    yield compare(f"sample, T = 1, {FEW} rows", "softmax alone", ours_few, lambda: torch.softmax(few, 1), few)
    by_top_k = multinomial(lambda x: top_k(unused, x))
    yield compare("sample, top-k 50", processors, draw(top_k=50), by_top_k, z, ratio(90))
    by_top_p = multinomial(lambda x: top_p(unused, x))
    yield compare("sample, top-p .95", processors, draw(top_p=0.95), by_top_p, z, ratio(150))


def thresholds() -> Iterator[Measurement]:
    z, keys = zipf(), torch.zeros(N, 4, dtype=torch.int64)
    yield compare(
        "threshold sample, 16 ids, Zipf-shaped",
        "softmax + multinomial of 16",
        lambda: kernels.threshold_sample(z, 16, seed=0, keys_N4=keys),
        lambda: torch.multinomial(torch.softmax(z, 1), 16),
        z,
    )


def scaling(z: Tensor) -> Measurement:
    """One thread against two by the clock on the wall, and the same of a mere read: what the two cores have to give.

    Means something only where both are free, so the processor time that the two threads had is in the table. A kernel
    may leave a thread that has just woken on its waker's core for milliseconds, so a run is many calls.
    """
    calls = 10

    def on(threads: int, work: Work) -> Work:
        def run() -> None:
            torch.set_num_threads(threads)
            for _ in range(calls):
                work()

        return run

    def read() -> object:
        return z.amax(1)

    works = [on(threads, work) for work in (ours(z), read) for threads in (1, 2)]
    one, two, read_one, read_two = (seconds * 1e6 / (calls * len(z)) for seconds in interleaved(works, 7))
    cores = cores_of(works[1])
    torch.set_num_threads(1)
    return Measurement(
        what=f"top-64 + tail on two threads, {z.dtype}".replace("torch.", ""),
        peer=f"ours on one ({cores:.1f} cores were free)",
        ours=two,
        theirs=one,
        floor=read_two,
        floor_is=f"a read on two, {read_one / read_two:.2f}× one",
        unit="µs/row",
        target=ratio(1.8),
    )


def cores_of(work: Work) -> float:
    """How many cores' time it had in some runs."""
    wall, used = time.perf_counter(), time.process_time()
    for _ in range(5):
        work()
    return (time.process_time() - used) / (time.perf_counter() - wall)


def compare(
    what: str, peer: str, mine: Work, theirs: Work, z: Tensor, target: Target | None = None, repeats: int = 7
) -> Measurement:
    """Least of some interleaved repetitions, in µs of this thread per row."""
    read = z.view(torch.float32).sum  # 16-bit rows too: summing int16 is no mere read
    own, other, floor = (
        seconds * 1e6 / len(z) for seconds in interleaved((mine, theirs, read), repeats, clock=time.thread_time)
    )
    return Measurement(
        what=what,
        peer=peer,
        ours=own,
        theirs=other,
        floor=floor,
        floor_is="one read",
        unit="µs/row",
        target=target,
    )


def normal() -> Tensor:
    return torch.randn(N, V, generator=torch.Generator().manual_seed(0)) * 2


def zipf() -> Tensor:
    """log p = −1.1 log rank, ids in random order."""
    generator = torch.Generator().manual_seed(1)
    ranks = torch.stack([torch.randperm(V, generator=generator) for _ in range(N)])
    return -1.1 * torch.log(ranks.float() + 1)
