"""Approximate likelihood matching (arXiv 2503.20083): the likelihoods of chunks, each as one event that happens or not.

    p = P_teacher(chunk), q = Q_student(chunk)          a chunk: from one common boundary to the next

    loss = τ · [p^(1/τ) log(p^(1/τ) / q^(1/τ)) + (1 − p^(1/τ)) log((1 − p^(1/τ)) / (1 − q^(1/τ)))]

Binary KL, the form and τ = 100 of its public code. The factor τ is ours: the loss has a limit as τ grows,
q' − p' + p' log(p'/q') of p' = −log p and q' = −log q, and the size of a cross-entropy. Its public code balances the
gradients of its losses instead. What is left out: probabilities that a chunk ends where it does (its debiasing), and
hidden states.

N student rows, C chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thack.targets.published import ChunkTarget

_LARGEST = -1e-6  # log-likelihoods: of a sure event, 1 − p would be rounding alone


def alm_divergence(logits_NV: Tensor, target: ChunkTarget) -> Tensor:
    """loss_N: a chunk's loss at its last row, 0 elsewhere.

    Args:
        logits_NV: the student's; float32 at least.
        target: of the same rows.

    Returns:
        Nats times τ, differentiable in the logits.
    """
    log_q_N = torch.log_softmax(logits_NV, dim=1).gather(1, target.labels_N[:, None])[:, 0]
    log_p_C = target.log_p_N[target.is_last_N].to(log_q_N.dtype)
    log_q_C = torch.zeros_like(log_p_C).index_add(0, target.chunk_N, log_q_N)
    loss_C = target.temperature * _binary_kl(_tempered(log_p_C, target), _tempered(log_q_C, target))
    return torch.zeros_like(log_q_N).masked_scatter(target.is_last_N, loss_C)


def _tempered(log_C: Tensor, target: ChunkTarget) -> Tensor:
    return log_C.clamp(max=_LARGEST) / target.temperature


def _binary_kl(log_p_C: Tensor, log_q_C: Tensor) -> Tensor:
    not_p_C = -torch.expm1(log_p_C)
    gap_C = torch.where(not_p_C < 1, log_p_C - log_q_C, 0)  # what the teacher rules out adds 0, not 0·(−∞)
    return (1 - not_p_C) * gap_C + not_p_C * (not_p_C.log() - (-torch.expm1(log_q_C)).log())
