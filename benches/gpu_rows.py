"""Row kernels on bfloat16 logits, against plain torch on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from eager import eager_divergence
from gpu_cost import compare
from gpu_shapes import Shapes
from harness import Measurement, Work
from thack import kernels
from thack.config import LossSettings
from thack.config.specs import loss_terms
from thack.losses import token_losses
from thack.losses.rows import replace_by_gradient
from thack.targets import TopKTarget

CUDA = "cuda"


def measure(shapes: Shapes) -> Iterator[Measurement]:
    torch.manual_seed(0)
    z_NV = torch.randn(shapes.rows, shapes.vocab, dtype=torch.bfloat16, device=CUDA) * 3
    yield from selection(z_NV, shapes)
    yield from sampling(z_NV, shapes)
    yield from divergences(z_NV, shapes)


def selection(z_NV: Tensor, shapes: Shapes) -> Iterator[Measurement]:
    k, keys_N4 = shapes.kept, keys(shapes.rows)
    yield from compare(
        f"top-{k} + tail",
        lambda: kernels.topk_logsumexp(z_NV, k),
        lambda: (torch.topk(z_NV, k), torch.logsumexp(z_NV.float(), 1)),
        "torch.topk + torch.logsumexp (no tail)",
    )
    yield from compare(
        f"threshold sample, {shapes.sampled} ids",
        lambda: kernels.threshold_sample(z_NV, shapes.sampled, seed=0, keys_N4=keys_N4),
        lambda: torch.multinomial(torch.softmax(z_NV.float(), 1), shapes.sampled),
        f"softmax + multinomial of {shapes.sampled}",
    )


def sampling(z_NV: Tensor, shapes: Shapes) -> Iterator[Measurement]:
    """On as many rows as generation has at once."""
    z_NV = z_NV[: shapes.drawn_rows]
    keys_N4, many = keys(len(z_NV)), f"{len(z_NV):,} rows"

    def multinomial(warp: Callable[[Tensor], Tensor]) -> Work:
        return lambda: torch.multinomial(torch.softmax(warp(z_NV.float()), 1), 1)

    def only_top_k(x_NV: Tensor) -> Tensor:
        return x_NV.masked_fill(x_NV < x_NV.topk(50, dim=1).values[:, -1:], float("-inf"))

    def only_top_p(x_NV: Tensor) -> Tensor:
        sorted_NV, order_NV = torch.sort(x_NV, dim=1, descending=True)
        above_NV = torch.softmax(sorted_NV, 1).cumsum(1).roll(1, 1)
        above_NV[:, 0] = 0
        return x_NV.masked_fill(torch.empty_like(x_NV).scatter_(1, order_NV, above_NV) >= 0.95, float("-inf"))

    yield from compare(
        f"sample, T = 1, {many}",
        lambda: kernels.sample(z_NV, seed=0, keys_N4=keys_N4),
        multinomial(lambda x_NV: x_NV),
        "softmax + multinomial",
    )
    yield from compare(
        f"sample, top-k 50, {many}",
        lambda: kernels.sample(z_NV, seed=0, keys_N4=keys_N4, top_k=50),
        multinomial(only_top_k),
        "topk + softmax + multinomial",
    )
    yield from compare(
        f"sample, top-p .95, {many}",
        lambda: kernels.sample(z_NV, seed=0, keys_N4=keys_N4, top_p=0.95),
        multinomial(only_top_p),
        "sort + softmax + multinomial",
    )


def divergences(z_NV: Tensor, shapes: Shapes) -> Iterator[Measurement]:
    """Forward and gradient from logits that are there already."""
    target, labels_N = target_of(shapes), torch.zeros(shapes.rows, dtype=torch.int64, device=CUDA)
    plain = "torch eager, masked log-sum-exp"

    def through(loss: Callable[[Tensor], Tensor]) -> Work:
        def work() -> None:
            leaf_NV = z_NV.detach().requires_grad_()
            loss(leaf_NV).sum().backward()

        return work

    terms = loss_terms(LossSettings())
    eager = through(lambda x_NV: eager_divergence(x_NV, target))
    yield from compare(
        f"forward KL, top-{shapes.kept}, rows in place",
        lambda: replace_by_gradient(z_NV, target, labels_N, terms),  # from the second run on, of gradients
        eager,
        plain,
    )
    yield from compare(
        f"forward KL, top-{shapes.kept}, by autograd",
        through(lambda x_NV: token_losses(x_NV, target, labels_N, LossSettings())),
        eager,
        plain,
    )


def target_of(shapes: Shapes) -> TopKTarget:
    """A top-k target of random teacher logits, made a chunk at a time."""
    chunks = []
    for start in range(0, shapes.rows, 1024):
        rows = min(1024, shapes.rows - start)
        chunks.append(kernels.topk_logsumexp(torch.randn(rows, shapes.vocab, device=CUDA) * 3, shapes.kept))
    return TopKTarget(
        ids_NK=torch.cat([chunk.ids_NK for chunk in chunks]),
        log_probs_NK=torch.cat([chunk.log_probs_NK for chunk in chunks]),
        log_tail_N=torch.cat([chunk.log_tail_N for chunk in chunks]),
        vocab_size=shapes.vocab,
    )


def keys(rows: int) -> Tensor:
    found_N4 = torch.zeros(rows, 4, dtype=torch.int64)
    found_N4[:, 1] = torch.arange(rows)
    return found_N4
