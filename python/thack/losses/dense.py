"""Divergences on the whole vocabulary, with the gradient worked out in the forward.

N response tokens, V vocabulary. One [N, V] tensor is kept for the backward: the gradient itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thack.errors import MismatchError
from thack.kernels import dense_forward_kl
from thack.losses.formulas import check_reverse_kl, terms
from thack.schema.targets import Divergence


def dense_divergence(student_logits_NV: Tensor, log_probs_NV: Tensor, divergence: Divergence) -> Tensor:
    """loss_N = T² · Σ_v f(p_v, q_v) in nats, p = softmax(log_probs/T), q = softmax(student_logits/T).

    T² scales loss and gradient together (Hinton et al., arXiv 1503.02531, section 2). Computed in float32 (float64 for
    float64 logits); the gradient goes to the logits only.

    Raises:
        MismatchError: the two tensors have different shapes.
        UndefinedLoss: reverse KL is infinite; names the row.
    """
    if student_logits_NV.shape != log_probs_NV.shape:
        raise MismatchError(
            "student logits and dense target have different shapes",
            details=(f"student  {tuple(student_logits_NV.shape)}", f"target   {tuple(log_probs_NV.shape)}"),
        )
    loss_N: Tensor = _Dense.apply(student_logits_NV, log_probs_NV, divergence)
    return loss_N


def value_and_gradient(logits_NV: Tensor, log_p_NV: Tensor, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """(loss_N, its gradient by the logits), both in float32 at least and outside autograd."""
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    temperature = divergence.temperature
    scaled_NV = logits_NV.to(dtype)
    log_p_NV = log_p_NV.to(dtype)
    if temperature != 1:
        scaled_NV = scaled_NV / temperature
        log_p_NV = torch.log_softmax(log_p_NV / temperature, dim=1)
    found = _forward_kl(log_p_NV, scaled_NV) if divergence.kind == "forward_kl" else None
    loss_N, grad_NV = found if found is not None else _by_terms(divergence, log_p_NV, scaled_NV)
    if temperature == 1:
        return loss_N, grad_NV
    # T² from the loss times 1/T from the logits' scale.
    return loss_N * temperature**2, grad_NV.mul_(temperature)


def _forward_kl(log_p_NV: Tensor, scaled_NV: Tensor) -> tuple[Tensor, Tensor] | None:
    """(loss_N, gradient q·Σp − p): `terms` of forward KL in half the passes; None where something is not finite."""
    if scaled_NV.device.type == "cpu" and scaled_NV.dtype == log_p_NV.dtype == torch.float32:
        loss_N, grad_NV = dense_forward_kl(scaled_NV, log_p_NV)
        return (loss_N, grad_NV) if torch.isfinite(loss_N).all() else None
    log_q_NV = torch.log_softmax(scaled_NV, dim=1)
    p_NV = log_p_NV.exp()
    loss_N = torch.linalg.vecdot(p_NV, log_p_NV - log_q_NV)
    if not torch.isfinite(loss_N).all():
        return None
    return loss_N, log_q_NV.exp_().mul_(p_NV.sum(dim=1, keepdim=True)).sub_(p_NV)


def _by_terms(divergence: Divergence, log_p_NV: Tensor, scaled_NV: Tensor) -> tuple[Tensor, Tensor]:
    log_q_NV = torch.log_softmax(scaled_NV, dim=1)
    f_NV, g_NV = terms(divergence, log_p_NV, log_q_NV, underflows=False)
    loss_N = f_NV.sum(dim=1)
    if divergence.kind == "reverse_kl":
        check_reverse_kl(loss_N)
    elif divergence.kind in ("jsd", "skewed_kl") and not torch.isfinite(loss_N).all():
        f_NV, g_NV = terms(divergence, log_p_NV, log_q_NV)
        loss_N = f_NV.sum(dim=1)
    grad_NV = torch.addcmul(g_NV, log_q_NV.exp_(), g_NV.sum(dim=1, keepdim=True), value=-1)
    return loss_N, grad_NV


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, log_p_NV: Tensor, divergence: Divergence) -> Tensor:
        loss_N, grad_NV = value_and_gradient(logits_NV, log_p_NV, divergence)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(grad_NV.to(logits_NV.dtype))
        return loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NV,) = ctx.saved_tensors
        return grad_NV * grad_N.to(grad_NV.dtype).unsqueeze(1), None, None
