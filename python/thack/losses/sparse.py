"""Divergences on cached sparse targets: what is defined on which, and what is refused with the reason.

The arithmetic is `thack.kernels.sparse_divergence` (Rust on CPU, torch elsewhere).
"""

from __future__ import annotations

import torch
from torch import Tensor

from thack.errors import MismatchError, UndefinedLoss
from thack.losses.formulas import resolve
from thack.schema.targets import DivergenceKind
from thack.targets.types import SampledTarget, TopKTarget


def check_defined(target: TopKTarget | SampledTarget, kind: DivergenceKind, temperature: float) -> None:
    """Raise UndefinedLoss where this divergence at this temperature cannot be had from this target."""
    if isinstance(target, SampledTarget):
        _check_sampled(kind, temperature)
    else:
        _check_top_k(target, kind, temperature)


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


def _check_sampled(kind: DivergenceKind, temperature: float) -> None:
    if kind != "forward_kl":
        raise UndefinedLoss(
            f"{kind} is not defined on sampled targets",
            details=("the samples are an unbiased estimate of p, and only forward KL is linear in p",),
            hint="use loss.divergence = forward_kl, or a dense or top-k cache",
        )
    if temperature != 1:
        raise UndefinedLoss(
            f"temperature {temperature:g} is not defined on sampled targets",
            details=("they were drawn at temperature 1, and p^(1/T) is not linear in p",),
            hint="use loss.temperature = 1, or a dense or top-k cache",
        )


def _check_top_k(target: TopKTarget, kind: DivergenceKind, temperature: float) -> None:
    if target.log_tail_N is None:
        raise UndefinedLoss(
            f"{kind} is not defined on a top-k target without its tail",
            details=("truncated forward KL goes negative, renormalised it is over-confident",),
            hint="cache the teacher with `thack cache-logits`, which stores the exact tail",
        )
    if temperature != 1 and temperature not in target.log_tail_at:
        kept = ", ".join(f"{t:g}" for t in sorted({1.0, *target.log_tail_at}))
        raise UndefinedLoss(
            f"temperature {temperature:g} needs the tail at that temperature, which this cache does not hold",
            details=(f"asked   {temperature:g}", f"cached  {kept}"),
            hint=f"cache again with `temperatures = [{temperature:g}]`, or use `loss.temperature = 1`",
        )
