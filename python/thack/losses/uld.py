"""Universal logit distillation (arXiv 2402.12030): sorted probabilities, whichever tokens they are of.

    loss = Σ_k |p_(k) − q_(k)|          largest first; the shorter one ends in zeros

The closed form of a Wasserstein distance in which all pairs of different tokens are equally far apart. Of a top-k
target, all ids that are not kept are one outcome, which bounds the sum from below. The rows that are compared are those
of the same place in both encodings (`uld`, as in the paper), or of the same common boundary (`uld-common`).

N student rows, K kept values, V student ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thack.targets.published import SortedTarget


def uld_divergence(logits_NV: Tensor, target: SortedTarget) -> Tensor:
    """loss_N: 0 at rows that are not paired.

    Args:
        logits_NV: the student's; float32 at least.
        target: of the same rows.

    Returns:
        From 0 to 2, differentiable in the logits.
    """
    q_NV = torch.softmax(logits_NV, dim=1).sort(1, descending=True).values
    loss_N = sorted_distance(q_NV, target.mass_NK.to(q_NV.dtype), target.tail_N.to(q_NV.dtype))
    return torch.where(target.is_paired_N, loss_N, 0)


def sorted_distance(q_NV: Tensor, mass_NK: Tensor, tail_N: Tensor) -> Tensor:
    """Σ |p_(k) − q_(k)| over the kept values, and |tail − Σ of the other q|; both decreasing."""
    width, kept = q_NV.shape[1], mass_NK.shape[1]
    q_NK = torch.nn.functional.pad(q_NV[:, :kept], (0, max(kept - width, 0)))
    return (mass_NK - q_NK).abs().sum(1) + (tail_N - q_NV[:, kept:].sum(1)).abs()
