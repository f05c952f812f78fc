"""One entry for every divergence on every target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thack.config import LossSettings
from thack.losses.dense import dense_divergence
from thack.losses.formulas import weighted_terms
from thack.losses.rows import sampled_rows
from thack.losses.sparse import sparse_divergence
from thack.schema.targets import DivergenceKind
from thack.targets.types import DenseTarget, Target


def divergence(student_logits_NV: Tensor, target: Target, settings: LossSettings) -> Tensor:
    """loss_N: the divergence that `settings` names, per response token, in nats (times T²).

    Raises UndefinedLoss where it is not defined on this kind of target.
    """
    return _term(student_logits_NV, target, settings.divergence, settings)


def token_losses(student_logits_NV: Tensor, target: Target | None, labels_N: Tensor, settings: LossSettings) -> Tensor:
    """loss_N = weight · divergence + Σ loss.add + ce_weight · (−log q(label)), the cross-entropy at temperature 1."""
    total_N: Tensor | None = None
    for kind, weight in weighted_terms(settings):
        if kind == "cross_entropy":
            loss_N = cross_entropy(student_logits_NV, labels_N)
        else:
            assert target is not None, f"{kind} compares with a teacher"
            loss_N = _term(student_logits_NV, target, kind, settings)
        loss_N = loss_N if weight == 1 else weight * loss_N
        total_N = loss_N if total_N is None else total_N + loss_N
    assert total_N is not None
    return total_N


def _term(student_logits_NV: Tensor, target: Target, kind: DivergenceKind, settings: LossSettings) -> Tensor:
    return _divergence(
        student_logits_NV,
        target,
        kind,
        beta=settings.beta,
        skew=settings.skew,
        temperature=settings.temperature,
    )


def cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """loss_N = −log softmax(logits)[label], in float32 at least; on the CPU by the row kernel."""
    if logits_NV.device.type == "cpu" and logits_NV.dtype in (torch.float32, torch.bfloat16) and len(labels_N):
        loss_N: Tensor = _CrossEntropy.apply(logits_NV, labels_N)
        return loss_N
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return torch.nn.functional.cross_entropy(logits_NV.to(dtype), labels_N, reduction="none")


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, labels_N: Tensor) -> Tensor:
        grad_NV = logits_NV.clone(memory_format=torch.contiguous_format)
        loss_N = sampled_rows(grad_NV, labels_N)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(grad_NV)
        return loss_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor, None]:
        (grad_NV,) = ctx.saved_tensors
        return grad_NV * upstream_N[:, None].to(grad_NV.dtype), None


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
    kind: DivergenceKind,
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
