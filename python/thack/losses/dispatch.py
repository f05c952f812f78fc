"""One entry for every divergence on every target."""

from __future__ import annotations

import torch
from torch import Tensor

from thack.config.settings import Divergence, LossSettings
from thack.losses.dense import dense_divergence
from thack.losses.sparse import sparse_divergence
from thack.targets import DenseTarget, Target


def divergence(student_logits_NV: Tensor, target: Target, settings: LossSettings) -> Tensor:
    """loss_N: the divergence that `settings` names, per response token, in nats (times T²).

    Raises UndefinedLoss where it is not defined on this kind of target.
    """
    return _divergence(
        student_logits_NV,
        target,
        settings.divergence,
        beta=settings.beta,
        skew=settings.skew,
        temperature=settings.temperature,
    )


def token_losses(student_logits_NV: Tensor, target: Target, labels_N: Tensor, settings: LossSettings) -> Tensor:
    """loss_N = divergence + ce_weight · (−log q(label)), the cross-entropy at temperature 1."""
    loss_N = divergence(student_logits_NV, target, settings)
    if settings.ce_weight:
        loss_N = loss_N + settings.ce_weight * cross_entropy(student_logits_NV, labels_N)
    return loss_N


def cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """loss_N = −log softmax(logits)[label], in float32 at least."""
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return torch.nn.functional.cross_entropy(logits_NV.to(dtype), labels_N, reduction="none")


def forward_kl(student_logits_NV: Tensor, target: Target, *, temperature: float = 1.0) -> Tensor:
    """loss_N = T² · KL(teacher ‖ student)."""
    return _divergence(student_logits_NV, target, "forward_kl", temperature=temperature)


def reverse_kl(student_logits_NV: Tensor, target: Target, *, temperature: float = 1.0) -> Tensor:
    """loss_N = T² · KL(student ‖ teacher); on a top-k target that of K+1 buckets, an approximation."""
    return _divergence(student_logits_NV, target, "reverse_kl", temperature=temperature)


def jsd(student_logits_NV: Tensor, target: Target, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """loss_N = T² · [β KL(teacher ‖ M) + (1−β) KL(student ‖ M)], M = β·teacher + (1−β)·student.

    β = 0 is forward KL and β = 1 reverse KL; close to either, the scale falls with β (12× at .1).
    """
    return _divergence(student_logits_NV, target, "jsd", beta=beta, temperature=temperature)


def skewed_kl(student_logits_NV: Tensor, target: Target, *, skew: float = 0.1, temperature: float = 1.0) -> Tensor:
    """loss_N = T² · KL(teacher ‖ skew·teacher + (1−skew)·student)."""
    return _divergence(student_logits_NV, target, "skewed_kl", skew=skew, temperature=temperature)


def total_variation(student_logits_NV: Tensor, target: Target, *, temperature: float = 1.0) -> Tensor:
    """loss_N = T² · ½ Σ_v |teacher_v − student_v|."""
    return _divergence(student_logits_NV, target, "total_variation", temperature=temperature)


def _divergence(
    student_logits_NV: Tensor,
    target: Target,
    kind: Divergence,
    *,
    beta: float = 0.5,
    skew: float = 0.1,
    temperature: float = 1.0,
) -> Tensor:
    if isinstance(target, DenseTarget):
        return dense_divergence(
            student_logits_NV, target.log_probs_NV, kind=kind, beta=beta, skew=skew, temperature=temperature
        )
    return sparse_divergence(student_logits_NV, target, kind=kind, beta=beta, skew=skew, temperature=temperature)
