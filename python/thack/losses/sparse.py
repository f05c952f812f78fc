"""Divergences on cached sparse targets: what is defined on which, and what is refused with the reason.

The arithmetic is `thack.kernels.sparse_divergence` (Rust on CPU, torch elsewhere).
"""

from __future__ import annotations

import torch
from torch import Tensor

from thack.errors import MismatchError
from thack.losses.formulas import resolve
from thack.schema import targets
from thack.schema.targets import DivergenceKind, Tail, TargetSpec
from thack.targets.types import SampledTarget, TopKTarget


def check_defined(target: TopKTarget | SampledTarget, kind: DivergenceKind, temperature: float) -> None:
    """Raise UndefinedLoss where this divergence at this temperature is not defined on this target."""
    if isinstance(target, SampledTarget):
        spec = TargetSpec(kind="sampled", k=1)
    else:
        tail: Tail = "none" if target.log_tail_N is None else "exact"
        spec = TargetSpec(kind="top-k", k=1, tail=tail, temperatures=tuple(target.log_tail_at))
    targets.check_defined(spec, kind, temperature)


def sparse_divergence(
    student_logits_NV: Tensor,
    target: TopKTarget | SampledTarget,
    *,
    kind: DivergenceKind = "forward_kl",
    beta: float = 0.5,
    skew: float = 0.1,
    temperature: float = 1.0,
) -> Tensor:
    """loss_N in nats, on K+1 numbers per row (top-k) or as an unbiased estimate (sampled).

    top-k:   T² · [Σ_k f(p_k, q_k) + f(t, u)], the tail as one bucket of teacher mass t and student
             mass u; a lower bound of the full divergence (data processing), 0 at equality.
    sampled: −Σ_k w_k log q_k − H(p): its expectation is KL(p‖q); a single row may be negative.
    """
    from thack import kernels

    if student_logits_NV.shape != (len(target), target.vocab_size):
        raise MismatchError(
            "student logits and cached target have different shapes",
            details=(
                f"student  {tuple(student_logits_NV.shape)}",
                f"target   {(len(target), target.vocab_size)} (tokens, vocabulary)",
            ),
        )
    resolved = resolve(kind, beta, skew, temperature)
    check_defined(target, resolved, temperature)
    loss_N: Tensor = kernels.sparse_divergence(
        student_logits_NV, target, kind=resolved, beta=beta, skew=skew, temperature=temperature
    )
    return loss_N


def at_temperature(target: TopKTarget | SampledTarget, temperature: float) -> tuple[Tensor, Tensor]:
    """(values_NK, rest_N): log p_k and log t at T; of a sampled target its weights and H(p).

    Z_T follows by addition of the stored tail, never as 1 − Σ (pitfall 4).
    """
    if isinstance(target, SampledTarget):
        return target.weights_NK, target.entropy_N
    if temperature == 1:
        assert target.log_tail_N is not None
        return target.log_probs_NK, target.log_tail_N
    head_NK, tail_N = target.log_probs_NK / temperature, target.log_tail_at[temperature]
    total_N = torch.logaddexp(torch.logsumexp(head_NK, dim=1), tail_N)
    return head_NK - total_N[:, None], tail_N - total_N
