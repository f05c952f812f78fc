"""The teacher's entropy, as far as a record knows it: exactly, or between two bounds.

    Shannon      H = −Σ p log p                                of order 1
    Tsallis      S_γ = (Σ p^γ − 1) / (1 − γ)                   of order γ < 1, which tends to H as γ → 1

dense      both exactly.
sampled    H is part of the record; S_γ is not known. So are they of a projected target. Of a mixture with weights w,
           Σ w_c H(p_c) ≤ H ≤ Σ w_c H(p_c) + H(w), and at most log V.
top-k      Σ p^γ exactly where the log-tail at T = 1/γ is stored. Of H, the kept ids' part exactly; that of a tail of
           mass t, whose ids have at most the smallest kept probability p_K, lies between −t·log min(t, p_K) and
           −t·log(t / (V − K)).

N response tokens, V vocabulary, K kept ids.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thack.errors import UndefinedLoss
from thack.schema.targets import exactly
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, Target, TopKTarget


def entropy_bounds(target: Target, order: float = 1.0) -> tuple[Tensor, Tensor]:
    """(lowest_N, highest_N) of the entropy of each row, in nats for order 1; equal where it is known.

    Args:
        target: of any kind.
        order: γ in (0, 1].

    Raises:
        UndefinedLoss: nothing bounds it on this target.

    Example:
        >>> lowest_N, highest_N = entropy_bounds(DenseTarget(log_probs_NV=torch.tensor([[0.5, 0.5]]).log()))
        >>> round(float(lowest_N), 4), bool(lowest_N == highest_N)
        (0.6931, True)
    """
    if isinstance(target, DenseTarget):
        found_N = entropy_of(target.log_probs_NV, order)
        return found_N, found_N
    if isinstance(target, SampledTarget | FrozenHeadTarget):
        if order != 1:
            kind = "sampled" if isinstance(target, SampledTarget) else "projected"
            raise _undefined(f"entropy of order {order:g} is not known of {kind} targets", "loss.entropy_order = 1")
        if target.entropy_above_N is None:
            return target.entropy_N, target.entropy_N
        highest_N = (target.entropy_N + target.entropy_above_N).clamp(max=math.log(target.vocab_size))
        return target.entropy_N, torch.maximum(target.entropy_N, highest_N)
    if target.log_tail_N is None or target.processed:
        raise _undefined(
            "the teacher's entropy is not known of a top-k target without its own tail", "loss.mix = confidence"
        )
    return _of_top_k(target, target.log_tail_N, order)


def _of_top_k(target: TopKTarget, log_tail_N: Tensor, order: float) -> tuple[Tensor, Tensor]:
    if order != 1:
        log_powers_N = target.log_tail_at.get(1 / order)
        if log_powers_N is None:
            raise _undefined(
                f"entropy of order {order:g} needs the tail at temperature {exactly(1 / order)}, which is not kept",
                f"loss.entropy_order = 1, or a cache with temperatures = [{exactly(1 / order)}]",
            )
        total_N = log_powers_N.exp() + (order * target.log_probs_NK).exp().sum(dim=1)
        found_N = (total_N - 1) / (1 - order)
        return found_N, found_N
    kept_N = entropy_of(target.log_probs_NK, 1.0)
    tail_N, others = log_tail_N.exp(), max(target.vocab_size - target.log_probs_NK.shape[1], 1)
    lowest_N = torch.minimum(log_tail_N, target.log_probs_NK.amin(dim=1))
    none_N = torch.zeros_like(tail_N)
    low_N = torch.where(tail_N > 0, -tail_N * lowest_N, none_N)
    high_N = torch.where(tail_N > 0, -tail_N * (log_tail_N - math.log(others)), none_N)
    return kept_N + torch.minimum(low_N, high_N), kept_N + high_N


def entropy_of(log_p_NV: Tensor, order: float = 1.0) -> Tensor:
    """The entropy of each row of log-probabilities; what has no mass adds 0."""
    if order == 1:
        return -torch.where(log_p_NV > float("-inf"), log_p_NV.exp() * log_p_NV, 0).sum(dim=1)
    return ((order * log_p_NV).exp().sum(dim=1) - 1) / (1 - order)


def most_entropy(vocab_size: int, order: float = 1.0) -> float:
    """The entropy of the even distribution over `vocab_size` ids: no other has more."""
    if vocab_size == 1:
        return 1.0  # every entropy is 0, and so is its share of anything
    return math.log(vocab_size) if order == 1 else math.expm1((1 - order) * math.log(vocab_size)) / (1 - order)


def _undefined(problem: str, instead: str) -> UndefinedLoss:
    return UndefinedLoss(problem, hint=f"use `{instead}`, or a live `teacher`")
