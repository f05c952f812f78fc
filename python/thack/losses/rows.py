"""Rows of student logits in, losses out, and each row replaced by its gradient: what the fused head sweeps over.

On the CPU sparse targets go through the Rust kernel; elsewhere two sweeps over the row (Triton on a GPU, torch
where there is no Triton) stand around arithmetic on K+1 numbers. With s the student's softmax, q_S its mass on
the K ids, u its tail, r the softmax over the tail alone, g_k = ∂f/∂log q_k, h = ∂f/∂log u and G = Σ g_k:

    outside S:  grad_v = r_v · (h·q_S − G·u)        at S_k:  grad = g_k − s_k · (G + h)

C tokens of a chunk, V vocabulary, K kept ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thack import kernels
from thack.config import LossSettings
from thack.losses.dense import value_and_gradient
from thack.losses.formulas import resolve, terms, weighted_terms
from thack.losses.sparse import at_temperature, check_defined
from thack.losses.sweeps import fill_tail, tail_sums
from thack.schema.targets import DivergenceKind
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget


def replace_by_gradient(logits_CV: Tensor, target: Target | None, labels_C: Tensor, settings: LossSettings) -> Tensor:
    """loss_C of `settings` (float32 at least), with logits_CV overwritten by its gradient, row by row.

    target: None where the cross-entropy is all that is asked for. One copy of the rows is needed for every term
    of a weighted sum but the last; the CPU's kernel takes the cross-entropy along with a divergence.
    """
    plan = weighted_terms(settings)
    along = 0.0
    if len(plan) > 1 and plan[-1][0] == "cross_entropy" and _has_kernel(logits_CV, target):
        along = plan.pop()[1]
    total_C, gradient_CV = None, None
    for number, (kind, weight) in enumerate(plan):
        last = number == len(plan) - 1
        rows_CV = logits_CV if last else logits_CV.clone()
        if kind == "cross_entropy":
            loss_C = sampled_rows(rows_CV, labels_C)
        elif last and along:
            loss_C = _divergence(rows_CV, target, kind, settings, labels_C, along / weight)
        else:
            loss_C = _divergence(rows_CV, target, kind, settings)
        total_C = weight * loss_C if total_C is None else total_C + weight * loss_C
        if weight != 1:
            rows_CV *= weight
        if gradient_CV is not None:
            rows_CV += gradient_CV
        gradient_CV = rows_CV
    assert total_C is not None
    return total_C


def sampled_rows(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    """loss_C = −log softmax(logits)[label]: a sampled target whose one id has weight 1 and entropy 0."""
    one_C1 = torch.ones(len(labels_C), 1, device=labels_C.device)
    target = SampledTarget(
        ids_NK=labels_C[:, None].int(),
        weights_NK=one_C1,
        counts_N=torch.ones(len(labels_C), dtype=torch.int32, device=labels_C.device),
        tau_N=one_C1[:, 0],
        entropy_N=torch.zeros(len(labels_C), device=labels_C.device),
        vocab_size=logits_CV.shape[1],
    )
    return _sparse(logits_CV, target, "forward_kl", LossSettings())


def _divergence(
    logits_CV: Tensor,
    target: Target | None,
    kind: DivergenceKind,
    settings: LossSettings,
    labels_C: Tensor | None = None,
    ce_weight: float = 0.0,
) -> Tensor:
    assert target is not None, f"{kind} compares with a teacher"
    if not isinstance(target, DenseTarget):
        return _sparse(logits_CV, target, kind, settings, labels_C, ce_weight)
    loss_C, gradient_CV = value_and_gradient(
        logits_CV,
        target.log_probs_NV,
        kind=kind,
        beta=settings.beta,
        skew=settings.skew,
        temperature=settings.temperature,
    )
    logits_CV.copy_(gradient_CV)
    return loss_C


def _has_kernel(logits_CV: Tensor, target: Target | None) -> bool:
    on_cpu = logits_CV.device.type == "cpu" and logits_CV.dtype != torch.float64
    return on_cpu and isinstance(target, TopKTarget | SampledTarget)


def _sparse(
    logits_CV: Tensor,
    target: TopKTarget | SampledTarget,
    kind: DivergenceKind,
    settings: LossSettings,
    labels_C: Tensor | None = None,
    ce_weight: float = 0.0,
) -> Tensor:
    resolved = resolve(kind, settings.beta, settings.skew, settings.temperature)
    check_defined(target, resolved, settings.temperature)
    if not _has_kernel(logits_CV, target):
        return by_sweeps(logits_CV, target, resolved, settings)
    return kernels.sparse_divergence_(
        logits_CV,
        target,
        kind=resolved,
        beta=settings.beta,
        skew=settings.skew,
        temperature=settings.temperature,
        labels_N=labels_C,
        ce_weight=ce_weight,
    )


def by_sweeps(
    logits_CV: Tensor,
    target: TopKTarget | SampledTarget,
    kind: DivergenceKind,
    settings: LossSettings,
) -> Tensor:
    """The same by torch on K+1 numbers, between a sweep that reads the tail and one that writes its gradient."""
    wide = torch.promote_types(logits_CV.dtype, torch.float32)
    temperature, ids_CK = settings.temperature, target.ids_NK.long()
    values_CK, rest_C = at_temperature(target, temperature)
    sampled = isinstance(target, SampledTarget)
    # Padding repeats an id that counts: it must be seen once.
    counted_CK = values_CK > 0 if sampled else torch.ones_like(ids_CK, dtype=torch.bool)
    kept_CK = logits_CV.gather(1, ids_CK).to(wide) / temperature
    logits_CV.scatter_(1, ids_CK, float("-inf"))
    highest_C, sum_C = tail_sums(logits_CV, 1 / temperature)
    log_tail_C = highest_C / temperature + sum_C.log()
    log_head_C = torch.where(counted_CK, kept_CK, float("-inf")).logsumexp(1)
    log_all_C = torch.logaddexp(log_head_C, log_tail_C)
    log_q = torch.cat([kept_CK, log_tail_C[:, None]], 1) - log_all_C[:, None]
    if sampled:
        weights = torch.cat([values_CK, torch.zeros_like(rest_C)[:, None]], 1).to(wide)
        f, g = -torch.where(weights > 0, weights * log_q, 0), -weights
    else:
        log_p = torch.cat([values_CK, rest_C[:, None]], 1).to(wide)
        f, g = terms(kind, log_p, log_q, beta=settings.beta, skew=settings.skew)
    loss_C = f.sum(1) - (rest_C if sampled else 0)
    total_C1, tail_C = g[:, :-1].sum(1, keepdim=True), g[:, -1]
    q_head_C, u_C = (log_head_C - log_all_C).exp(), log_q[:, -1].exp()
    outside_C = (tail_C * q_head_C - total_C1[:, 0] * u_C) * temperature
    fill_tail(logits_CV, highest_C, torch.where(sum_C > 0, outside_C / sum_C, 0), 1 / temperature)
    head_CK = (g[:, :-1] - log_q[:, :-1].exp() * (total_C1 + tail_C[:, None])) * temperature
    if sampled:  # what repeats an id writes what that id gets
        place = (counted_CK.sum(1, keepdim=True) - 1).clamp_min(0)
        head_CK = torch.where(counted_CK, head_CK, head_CK.gather(1, place))
    logits_CV.scatter_(1, ids_CK, head_CK.to(logits_CV.dtype))
    return loss_C * temperature**2
