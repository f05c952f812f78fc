"""The loss of TRL's GOLD trainer (general online logit distillation), with rows that predict the token at their place.

    p, q   at the first row of a chunk, times the probabilities of the realised later tokens of the chunk
    loss = h · Σ_s d(p_s, q_s) + (1 − h) · Σ_k |p_(k) − q_(k)|          h = |equal strings| / V_T

The first sum is over ids of equal strings, the second over the sorted others. Where a teacher has two ends and the
student one, their masses are added up. d is the summand of forward KL, reverse KL or JSD, of masses of at least 10⁻⁸;
where they do not sum to 1 they are not scaled, so a value may be negative.

TRL's strategy "observed", whose rows are off by one as of 1.16 (its row k predicts token k + 1), as a hybrid loss with
the weights that TRL takes by itself. Ends are compared, which TRL leaves out unless it is asked to.

N student rows, B chunks, S ids of equal strings, U those of the student, V student ids, V_T teacher ids.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thack.losses.uld import sorted_distance
from thack.schema.targets import Divergence
from thack.targets.published import MergedTarget

_LEAST = 1e-8


def gold_divergence(logits_NV: Tensor, target: MergedTarget, divergence: Divergence) -> Tensor:
    """loss_N: a chunk's loss at its first row, 0 elsewhere.

    Args:
        logits_NV: the student's; float32 at least.
        target: of the same rows.
        divergence: forward KL, reverse KL or JSD at temperature 1.

    Returns:
        Differentiable in the logits.
    """
    log_q_NV = torch.log_softmax(logits_NV, dim=1)
    q_BV = log_q_NV[target.is_first_N].exp() * _later(log_q_NV, target).exp()[:, None]
    p_BV = target.mass_NV[target.is_first_N].to(q_BV.dtype)
    equal = target.equal
    teacher_S, student_U = equal.teacher_S.to(q_BV.device), equal.student_U.to(q_BV.device)
    share = len(teacher_S) / p_BV.shape[1]
    matched_B = _summand(equal.teacher_mass(p_BV), q_BV[:, student_U], divergence).sum(1)
    others_B = sorted_distance(_rest(q_BV, student_U), _rest(p_BV, teacher_S), p_BV.new_zeros(len(p_BV)))
    loss_B = share * matched_B + (1 - share) * others_B
    return torch.zeros_like(log_q_NV[:, 0]).masked_scatter(target.is_first_N, loss_B)


def _later(log_q_NV: Tensor, target: MergedTarget) -> Tensor:
    """log Π of the student's realised tokens of each chunk, but the first."""
    log_q_N = log_q_NV.gather(1, target.labels_N[:, None])[:, 0].clamp(min=math.log(_LEAST))
    later_N = ~target.is_first_N
    zero_B = log_q_N.new_zeros(int(target.is_first_N.sum()))
    return zero_B.index_add(0, target.chunk_N[later_N], log_q_N[later_N])


def _rest(mass_BV: Tensor, matched: Tensor) -> Tensor:
    """Masses of the other ids, largest first."""
    is_other_V = torch.ones(mass_BV.shape[1], dtype=torch.bool, device=mass_BV.device)
    is_other_V[matched] = False
    return mass_BV[:, is_other_V].sort(1, descending=True).values


def _summand(p_BS: Tensor, q_BS: Tensor, divergence: Divergence) -> Tensor:
    p_BS, q_BS = p_BS.clamp_min(_LEAST), q_BS.clamp_min(_LEAST)
    if divergence.kind == "forward_kl":
        return p_BS * (p_BS.log() - q_BS.log())
    if divergence.kind == "reverse_kl":
        return q_BS * (q_BS.log() - p_BS.log())
    beta = 0.5 if divergence.parameter is None else divergence.parameter
    middle_BS = (beta * p_BS + (1 - beta) * q_BS).log()
    return beta * p_BS * (p_BS.log() - middle_BS) + (1 - beta) * q_BS * (q_BS.log() - middle_BS)
