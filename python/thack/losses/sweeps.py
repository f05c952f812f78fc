"""The two passes over a row that a sparse divergence needs: the tail's sum, and the tail's gradient.

On a GPU one Triton program per row; the same by torch elsewhere, which is also the test oracle. Ids that are
not in the tail hold −inf.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor


def tail_sums(logits_CV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(highest_C, sum_C): the largest logit and Σ exp((logit − highest)·scale); (0, 0) where all are −inf."""
    if _by_triton(logits_CV):
        from thack.losses import triton_sweeps

        return triton_sweeps.tail_sums(logits_CV, scale)
    return tail_sums_by_torch(logits_CV, scale)


def fill_tail(logits_CV: Tensor, highest_C: Tensor, factor_C: Tensor, scale: float) -> None:
    """logits ← factor · exp((logit − highest)·scale), in place."""
    if _by_triton(logits_CV):
        from thack.losses import triton_sweeps

        triton_sweeps.fill_tail(logits_CV, highest_C, factor_C, scale)
        return
    fill_tail_by_torch(logits_CV, highest_C, factor_C, scale)


def tail_sums_by_torch(logits_CV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    wide_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    highest_C = wide_CV.amax(1)
    highest_C = torch.where(highest_C == float("-inf"), 0, highest_C)
    return highest_C, ((wide_CV - highest_C[:, None]) * scale).exp().sum(1)


def fill_tail_by_torch(logits_CV: Tensor, highest_C: Tensor, factor_C: Tensor, scale: float) -> None:
    wide_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    logits_CV.copy_(((wide_CV - highest_C[:, None]) * scale).exp_().mul_(factor_C[:, None]))


def _by_triton(logits_CV: Tensor) -> bool:
    usable = logits_CV.device.type == "cuda" and logits_CV.dtype != torch.float64
    return usable and importlib.util.find_spec("triton") is not None
