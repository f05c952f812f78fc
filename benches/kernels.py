"""Selection and sampling per row and core against torch and transformers, interleaved in one process.

The floor of each is one read of the same rows (a sum by torch). Run: python benches/kernels.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thack import kernels

N, V, K = 16, 151_936, 64
Work = Callable[[], object]


def rows() -> list[dict[str, Any]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # per core; the kernels follow torch's setting
    try:
        return [*selection(), *sampling(), *thresholds()]
    finally:
        torch.set_num_threads(before)


def selection() -> list[dict[str, Any]]:
    def peer(z: Tensor) -> Work:
        return lambda: (torch.topk(z, K), torch.logsumexp(z, 1))

    def ours(z: Tensor) -> Work:
        return lambda: kernels.topk_logsumexp(z, K)

    name = "torch.topk + torch.logsumexp (no tail)"
    z = normal()
    families = {"random f32": (z, "≥ 15×"), "Zipf-shaped f32": (zipf(), "≥ 15×")}
    families["random bf16"] = (z.bfloat16(), "≥ 9×")
    families["random f16"] = (z.half(), "")
    found = [compare(f"top-64 + tail, {what}", name, ours(x), peer(x), x, t) for what, (x, t) in families.items()]
    ascending = z.sort(dim=1).values
    for what, x in {"ascending": ascending, "constant": torch.zeros_like(z)}.items():
        work = (ours(x), ours(z))
        found.append(compare(f"top-64 + tail, {what} f32", "ours on random rows", *work, z, "≥ 0.91×"))
    return found


def sampling() -> list[dict[str, Any]]:
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    z, keys = normal(), torch.zeros(N, 4, dtype=torch.int64)
    keys[:, 1] = torch.arange(N)
    unused = torch.zeros(N, 1, dtype=torch.int64)

    def ours(**options: Any) -> Work:
        return lambda: kernels.sample(z, seed=0, keys_N4=keys, **options)

    def multinomial(warp: Callable[[Tensor], Tensor]) -> Work:
        return lambda: torch.multinomial(torch.softmax(warp(z), 1), 1)

    top_k, top_p = TopKLogitsWarper(50), TopPLogitsWarper(0.95)
    return [
        compare("sample, T = 1", "softmax + multinomial", ours(), multinomial(lambda x: x), z, "≥ 80×"),
        compare("sample, T = 1", "softmax alone", ours(), lambda: torch.softmax(z, 1), z, "≥ 10×"),
        compare(
            "sample, top-k 50", "transformers", ours(top_k=50), multinomial(lambda x: top_k(unused, x)), z, "≥ 90×"
        ),
        compare(
            "sample, top-p .95", "transformers", ours(top_p=0.95), multinomial(lambda x: top_p(unused, x)), z, "≥ 150×"
        ),
    ]


def thresholds() -> list[dict[str, Any]]:
    z, keys = zipf(), torch.zeros(N, 4, dtype=torch.int64)
    return [
        compare(
            "threshold sample, 16 ids, Zipf-shaped",
            "softmax + multinomial of 16",
            lambda: kernels.threshold_sample(z, 16, seed=0, keys_N4=keys),
            lambda: torch.multinomial(torch.softmax(z, 1), 16),
            z,
            "",
        )
    ]


def compare(what: str, peer: str, ours: Work, theirs: Work, z: Tensor, target: str) -> dict[str, Any]:
    """Minimum over interleaved repetitions, in µs per row."""
    works = (ours, theirs, z.view(torch.float32).sum)  # 16-bit rows too: summing int16 is no mere read
    for work in works:
        work()
    best = [float("inf")] * len(works)
    for _ in range(9):
        for i, work in enumerate(works):
            started = time.perf_counter()
            work()
            best[i] = min(best[i], (time.perf_counter() - started) * 1e6 / len(z))
    mine, other, floor = best
    return {
        "what": what,
        "peer": peer,
        "ours_us": mine,
        "peer_us": other,
        "ratio": other / mine,
        "floor_us": floor,
        "target": target,
    }


def normal() -> Tensor:
    return torch.randn(N, V, generator=torch.Generator().manual_seed(0)) * 2


def zipf() -> Tensor:
    """log p = −1.1 log rank, ids in random order."""
    generator = torch.Generator().manual_seed(1)
    ranks = torch.stack([torch.randperm(V, generator=generator) for _ in range(N)])
    return -1.1 * torch.log(ranks.float() + 1)


if __name__ == "__main__":
    from run import table

    print(table(rows()))
