"""Divergences straight from their definitions, in float64, through autograd: nothing shared with thack."""

from __future__ import annotations

import torch
from torch import Tensor


def kl(a_NV: Tensor, b_NV: Tensor) -> Tensor:
    """Σ a log(a/b) over outcomes with a > 0."""
    safe_a = torch.where(a_NV > 0, a_NV, torch.ones_like(a_NV))
    safe_b = torch.where(a_NV > 0, b_NV, torch.ones_like(b_NV))
    return (safe_a * (safe_a.log() - safe_b.log())).sum(dim=1)


def of_probabilities(kind: str, p_NV: Tensor, q_NV: Tensor, *, beta: float = 0.5, skew: float = 0.1) -> Tensor:
    if kind == "forward_kl" or (kind == "jsd" and beta == 0):
        return kl(p_NV, q_NV)
    if kind == "reverse_kl" or (kind == "jsd" and beta == 1):
        return kl(q_NV, p_NV)
    if kind == "jsd":
        m_NV = beta * p_NV + (1 - beta) * q_NV
        return beta * kl(p_NV, m_NV) + (1 - beta) * kl(q_NV, m_NV)
    if kind == "skewed_kl":
        return kl(p_NV, skew * p_NV + (1 - skew) * q_NV)
    assert kind == "total_variation"
    return (p_NV - q_NV).abs().sum(dim=1) / 2


def dense(kind: str, logits_NV: Tensor, teacher_logits_NV: Tensor, *, temperature: float = 1.0, **kw: float) -> Tensor:
    """T² · divergence of the two softmaxes at T."""
    p_NV = torch.softmax(teacher_logits_NV.double() / temperature, dim=1)
    q_NV = torch.softmax(logits_NV.double() / temperature, dim=1)
    return of_probabilities(kind, p_NV, q_NV, **kw) * temperature**2


def bucketed(
    kind: str, logits_NV: Tensor, teacher_logits_NV: Tensor, ids_NK: Tensor, *, temperature: float = 1.0, **kw: float
) -> Tensor:
    """The same on K+1 outcomes: the K ids, and everything else as one."""
    p_NV = torch.softmax(teacher_logits_NV.double() / temperature, dim=1)
    q_NV = torch.softmax(logits_NV.double() / temperature, dim=1)
    return of_probabilities(kind, _bucket(p_NV, ids_NK), _bucket(q_NV, ids_NK), **kw) * temperature**2


def _bucket(p_NV: Tensor, ids_NK: Tensor) -> Tensor:
    inside = torch.zeros_like(p_NV, dtype=torch.bool).scatter(1, ids_NK.long(), True)
    tail_N1 = torch.where(inside, torch.zeros_like(p_NV), p_NV).sum(dim=1, keepdim=True)
    return torch.cat([p_NV.gather(1, ids_NK.long()), tail_N1], dim=1)
