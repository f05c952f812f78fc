"""Policy gradients: what a teacher says of the tokens that the student itself wrote, by their log-probabilities alone.

y is a response token, p the teacher, q the student, b the student as it was when it wrote y (its own start, or an
earlier step); ρ = q(y)/b(y) is the importance weight, and 1 where b is not known. No gradient goes through ρ, p and b.

    k1    A = log p(y) − log q(y) + Σ_{k≥1} γ^k · [log p − log b](y_{+k})
          loss = −w·A                          slope = −w·A
    k3    d = log p(y) − log q(y)
          loss = w·(e^d − 1 − d)               slope = w·(1 − e^d)

slope is ∂loss/∂log q(y), so the gradient by the logits is slope · (1(y) − q). For y ~ b and w = ρ its expectation is
that of reverse KL(q‖p) for k1 with γ = 0, and that of forward KL(p‖q) for k3; the values estimate reverse KL. With
γ = 1, and b = q, k1's expectation over whole responses is the gradient of KL between the two models' responses.

    w: none        1
       truncated   min(ρ, 1 + c)
       ppo         ρ, and slope 0 where ρ > 1 + c and A > 0, or ρ < 1 − c and A < 0; the value takes ρ at its bound

k1 and k3 as in http://joschu.net/blog/kl-approx.html; the advantage as in Thinking Machines' On-Policy Distillation
(2025) with γ = 0; ppo as in arXiv 1707.06347, eq. 7. From responses of the student's start: arXiv 2604.13010.

The teacher's log-probability is at least −32, where records end: `floored` counts what was below.
N response tokens, C those of a chunk, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from thack.losses.tally import Tally
from thack.schema.policy import PolicyGradient
from thack.targets.types import Packed

LOWEST_LOG_PROB = -32.0
EFFECTIVE_SAMPLES = "policy/effective_samples"  # a column of metrics.jsonl
SUMS = ("tokens", "ratio", "ratio_squared", "clipped", "floored")  # of a tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour(Packed):
    """What is known of the writer of the response tokens.

    Args:
        log_prob_N: log b of each token; None: it was written by the student as it is, ρ = 1.
        later_N: Σ_{k≥1} γ^k · [log p − log b] of the later tokens of its response; None: γ = 0.
    """

    log_prob_N: Tensor | None = None
    later_N: Tensor | None = None


ON_POLICY = Behaviour()


class PolicyLoss(NamedTuple):
    """Of each token: the value, its derivative by log q, the importance weight, and where that was clipped."""

    value_N: Tensor
    slope_N: Tensor
    ratio_N: Tensor
    clipped_N: Tensor


def policy_loss(policy: PolicyGradient, log_q_N: Tensor, log_p_N: Tensor, behaviour: Behaviour) -> PolicyLoss:
    """The formulas above.

    Args:
        policy: estimator, importance weights and their bound.
        log_q_N: of the student as it is, in nats; no gradient is computed through it.
        log_p_N: of the teacher, ≥ −32.
        behaviour: of the same tokens.
    """
    gap_N = log_p_N.to(log_q_N.dtype) - log_q_N
    written_N = log_q_N if behaviour.log_prob_N is None else behaviour.log_prob_N.to(log_q_N.dtype)
    log_ratio_N = log_q_N - written_N
    ratio_N = log_ratio_N.exp()
    low, high = 1 - policy.clip, 1 + policy.clip
    if policy.estimator == "k3":
        weight_N, clipped_N = _weights(policy, ratio_N, high)
        # w·e^d in one power: where ρ makes up for it, e^d alone may be infinite.
        log_weight_N = log_ratio_N.clamp_max(math.log(high)) if policy.importance == "truncated" else 0
        weighted_N = (gap_N + log_weight_N).exp()
        return PolicyLoss(weighted_N - weight_N * (1 + gap_N), weight_N - weighted_N, ratio_N, clipped_N)
    advantage_N = gap_N if behaviour.later_N is None else gap_N + behaviour.later_N.to(gap_N.dtype)
    if policy.importance == "ppo":
        bounded_N = ratio_N.clamp(low, high)
        value_N = -torch.minimum(ratio_N * advantage_N, bounded_N * advantage_N)
        clipped_N = torch.where(advantage_N > 0, ratio_N > high, ratio_N < low)
        return PolicyLoss(value_N, torch.where(clipped_N, 0, -ratio_N * advantage_N), ratio_N, clipped_N)
    weight_N, clipped_N = _weights(policy, ratio_N, high)
    return PolicyLoss(-weight_N * advantage_N, -weight_N * advantage_N, ratio_N, clipped_N)


def _weights(policy: PolicyGradient, ratio_N: Tensor, high: float) -> tuple[Tensor, Tensor]:
    if policy.importance == "none":
        return torch.ones_like(ratio_N), torch.zeros_like(ratio_N, dtype=torch.bool)
    return ratio_N.clamp_max(high), ratio_N > high


def floored(log_p_N: Tensor) -> Tensor:
    """Log-probabilities of the teacher, none of them below −32."""
    return log_p_N.clamp_min(LOWEST_LOG_PROB)


def later_advantages(gaps_N: Tensor, lengths: Sequence[int], discount: float) -> Tensor:
    """later_N: of each token Σ_{k≥1} discount^k · gap of the k-th token behind it in its response.

    Args:
        gaps_N: log p − log b of every token, packed response after response.
        lengths: tokens of each response.
        discount: γ in [0, 1].
    """
    gaps_BT = pad_sequence(list(gaps_N.split(list(lengths))), batch_first=True)  # padding adds 0
    later_BT = torch.zeros_like(gaps_BT)
    for t in range(gaps_BT.shape[1] - 2, -1, -1):
        later_BT[:, t] = discount * (gaps_BT[:, t + 1] + later_BT[:, t + 1])
    return torch.cat([row_T[:length] for row_T, length in zip(later_BT, lengths, strict=True)])


def count(found: PolicyLoss, log_p_N: Tensor, tally: Tally) -> None:
    """Add to `tally` what `columns` needs; `log_p_N` are as they were before the floor."""
    tally.add(
        tokens=torch.ones_like(found.ratio_N),
        ratio=found.ratio_N,
        ratio_squared=found.ratio_N**2,
        clipped=found.clipped_N,
        floored=log_p_N < LOWEST_LOG_PROB,
    )


def columns(sums: Mapping[str, float]) -> dict[str, float]:
    """Columns of metrics.jsonl from the sums of all ranks.

    The first is (Σρ)² / (N·Σρ²), the share of the tokens that the weighted ones are worth; 1 on-policy.
    """
    tokens = sums["tokens"]
    return {
        EFFECTIVE_SAMPLES: sums["ratio"] ** 2 / (tokens * sums["ratio_squared"]),
        "policy/clipped_share": sums["clipped"] / tokens,
        "policy/floored_share": sums["floored"] / tokens,
    }
