"""The sweeps of `losses/sweeps.py` as Triton kernels: one program per row, float32 arithmetic."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _tail_sums(logits, highest, total, stride, vocab, scale, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    # One pass: the sum so far is rescaled whenever a block brings a new maximum.
    row = tl.program_id(0).to(tl.int64)
    most = float("-inf")
    found = 0.0
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(logits + row * stride + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
        # A NaN must reach the sum: the maximum alone would lose it (pitfall 18).
        new = tl.maximum(most, tl.max(x, 0))
        base = tl.where(new == float("-inf"), 0.0, new)
        found = found * tl.exp((most - base) * scale) + tl.sum(tl.exp((x - base) * scale), 0)
        most = new
    tl.store(highest + row, tl.where(most == float("-inf"), 0.0, most))
    tl.store(total + row, found)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _fill_tail(logits, highest, factor, stride, vocab, scale, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    most, times = tl.load(highest + row), tl.load(factor + row)
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        place = logits + row * stride + at
        x = tl.load(place, mask=at < vocab, other=float("-inf")).to(tl.float32)
        y = tl.exp((x - most) * scale) * times
        tl.store(place, y.to(logits.dtype.element_ty), mask=at < vocab)


def tail_sums(logits_CV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """See `sweeps.tail_sums`."""
    highest_C = torch.empty(len(logits_CV), dtype=torch.float32, device=logits_CV.device)
    total_C = torch.empty_like(highest_C)
    _launch(_tail_sums, logits_CV, highest_C, total_C, scale)
    return highest_C, total_C


def fill_tail(logits_CV: Tensor, highest_C: Tensor, factor_C: Tensor, scale: float) -> None:
    """See `sweeps.fill_tail`."""
    _launch(_fill_tail, logits_CV, highest_C.contiguous(), factor_C.float().contiguous(), scale)


def _launch(kernel: Any, logits_CV: Tensor, first_C: Tensor, second_C: Tensor, scale: float) -> None:
    rows, vocab = logits_CV.shape
    assert logits_CV.stride(1) == 1
    if rows:
        block = min(_BLOCK, triton.next_power_of_2(vocab))
        kernel[(rows,)](logits_CV, first_C, second_C, logits_CV.stride(0), vocab, scale, BLOCK=block)
