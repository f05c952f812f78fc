"""Sparse divergences with their gradients per row and core, against torch eager on the same K+1 numbers.

Both peers are compared: the tail by a masked log-sum-exp (right), and as 1 − Σq (wrong at small tails). Every
repetition of ours gets logits of its own, which come from memory and which it turns into their gradient: so does the
floor, a single product in place. With 64 rows torch's temporaries of 39 MB are new pages every time, as in a training
step, where they are larger still; with 16 they stay with the allocator, and the peer's logits in the cache: shown too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from eager import eager_divergence
from harness import Measurement, Target, Work, interleaved, ratio
from thack import kernels
from thack.losses.sparse import at_temperature
from thack.schema.targets import Divergence, DivergenceKind
from thack.targets.types import TopKTarget

N, FEW, V, K, REPEATS = 64, 16, 151_936, 64, 5
MASKED, ONE_MINUS = "torch eager, masked log-sum-exp", "torch eager, 1 − Σq"
Face = Callable[[Tensor], object]


def measure() -> Iterator[Measurement]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # per core; the kernels follow torch's setting
    try:
        yield from kinds()
        yield from faces()
    finally:
        torch.set_num_threads(before)


def kinds() -> Iterator[Measurement]:
    z, target = student(), teacher()
    for kind in ("forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation"):
        yield compare(f"{kind}, f32", in_place(target, kind), eager(target, kind), MASKED, z, ratio(50))
    yield compare("forward_kl, f32", in_place(target), by_difference(target), ONE_MINUS, z, ratio(18))
    few, their = student(FEW), teacher(FEW)
    yield compare(f"forward_kl, f32, {FEW} rows", in_place(their), eager(their), MASKED, few)
    yield compare(f"forward_kl, f32, {FEW} rows", in_place(their), by_difference(their), ONE_MINUS, few)
    half = z.bfloat16()
    yield compare("forward_kl, bf16", in_place(target), eager(target), MASKED, half)
    labels = torch.arange(N)
    rows = at_temperature(target, 1)
    with_label: Face = lambda x: kernels.sparse_divergence_(x, rows, labels_N=labels, ce_weight=0.5)  # noqa: E731
    yield compare("forward_kl and label, f32", with_label, eager(target), MASKED + ", no label", z)


def faces() -> Iterator[Measurement]:
    """Through autograd: from logits to logits.grad."""
    z, target = student(), teacher()
    rows = at_temperature(target, 1)
    for overwrite in (True, False):

        def through(x: Tensor, overwrite: bool = overwrite) -> None:
            leaf = x.requires_grad_()
            loss_N = kernels.sparse_divergence(leaf.view_as(leaf), rows, overwrite=overwrite)
            torch.autograd.grad(loss_N.sum(), leaf)

        how = "overwriting its logits" if overwrite else "logits kept"
        yield compare(f"forward_kl, f32, autograd, {how}", through, eager(target), MASKED, z, ratio(50))


def in_place(target: TopKTarget, kind: DivergenceKind = "forward_kl") -> Face:
    rows, divergence = at_temperature(target, 1), Divergence(kind=kind)
    return lambda x: kernels.sparse_divergence_(x, rows, divergence)


def eager(target: TopKTarget, kind: DivergenceKind = "forward_kl") -> Face:
    def work(x: Tensor) -> None:
        leaf = x.detach().requires_grad_()
        eager_divergence(leaf, target, kind).sum().backward()

    return work


def by_difference(target: TopKTarget) -> Face:
    ids, log_p = target.ids_NK.long(), torch.cat([target.log_probs_NK, target.log_tail_N[:, None]], 1)  # type: ignore[index]

    def work(x: Tensor) -> None:
        leaf = x.detach().requires_grad_()
        head = torch.log_softmax(leaf, 1).gather(1, ids)
        tail = torch.log1p(-head.exp().sum(1, keepdim=True))
        (log_p.exp() * (log_p - torch.cat([head, tail], 1))).sum().backward()

    return work


def compare(what: str, ours: Face, theirs: Face, peer: str, z: Tensor, target: Target | None = None) -> Measurement:
    mine, floor_of = on_fresh(ours, z), on_fresh(lambda x: x.view(torch.float32).mul_(0.5), z)
    found = interleaved((mine, lambda: theirs(z), floor_of), repeats=REPEATS, clock=time.thread_time)
    own, other, floor = (seconds * 1e6 / len(z) for seconds in found)
    return Measurement(
        what=what,
        ours=own,
        unit="µs/row",
        peer=peer,
        theirs=other,
        floor=floor,
        floor_is="one sweep in place",
        target=target,
    )


def on_fresh(face: Face, z: Tensor) -> Work:
    """On a copy of its own each time: a warm-up, then each run behind an untimed one."""
    fresh = iter([z.clone() for _ in range(1 + 2 * REPEATS)])
    return lambda: face(next(fresh))


def student(rows: int = N) -> Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(0)) * 2


def teacher(rows: int = N) -> TopKTarget:
    top = kernels.topk_logsumexp(torch.randn(rows, V, generator=torch.Generator().manual_seed(1)) * 3, K)
    return TopKTarget(ids_NK=top.ids_NK, log_probs_NK=top.log_probs_NK, log_tail_N=top.log_tail_N, vocab_size=V)
