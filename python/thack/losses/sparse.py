"""Divergences on truncated and sampled targets: what is defined on which, and what is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thack import kernels
from thack.kernels import SparseRows
from thack.losses.shapes import check_target
from thack.losses.sweeps import sparse_by_sweeps_
from thack.schema import defined
from thack.schema.targets import Divergence, Tail, TargetSpec
from thack.targets.types import SampledTarget, SparseTarget


def sparse_divergence(student_logits_NV: Tensor, target: SparseTarget, divergence: Divergence) -> Tensor:
    """loss_N in nats, on K+1 outcomes per row (top-k) or as an unbiased estimate (sampled).

    top-k:   T² · [Σ_k f(p_k, q_k) + f(t, u)], all other ids as one outcome of teacher mass t and student mass u: a
             lower bound of the full divergence (data processing), 0 at equality.
    sampled: −Σ_k w_k log q_k − H(p): its expectation is KL(p‖q); a single row may be negative.

    By the Rust kernel on the CPU, by sweeps in torch or Triton elsewhere and for float64.

    Raises:
        UndefinedLoss: the divergence is not defined on this target, or reverse KL is infinite.
        MismatchError: logits and target have different shapes.
    """
    check_target(student_logits_NV.shape, target)
    check_defined(target, divergence)
    teacher = at_temperature(target, divergence.temperature)
    if has_kernel(student_logits_NV):
        return kernels.sparse_divergence(student_logits_NV, teacher, divergence)
    return rowwise(student_logits_NV, partial(sparse_by_sweeps_, teacher=teacher, divergence=divergence))


def has_kernel(logits_NV: Tensor) -> bool:
    """Whether the Rust kernel of sparse divergences takes these logits."""
    return logits_NV.device.type == "cpu" and logits_NV.dtype != torch.float64


def rowwise(logits_NV: Tensor, apply_: Callable[[Tensor], Tensor]) -> Tensor:
    """loss_N = apply_(copy of the logits), differentiable; `apply_` overwrites each row by its loss's gradient."""
    loss_N: Tensor = _Rowwise.apply(logits_NV, apply_)
    return loss_N


class _Rowwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, apply_: Callable[[Tensor], Tensor]) -> Tensor:
        grad_NV = logits_NV.clone(memory_format=torch.contiguous_format)
        loss_N = apply_(grad_NV)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(grad_NV)
        return loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor, None]:
        (grad_NV,) = ctx.saved_tensors
        return grad_NV * upstream_N[:, None].to(grad_NV.dtype), None


def at_temperature(target: SparseTarget, temperature: float) -> SparseRows:
    """The target at T; a sampled one is at T = 1.

    The sum of all p^(1/T) follows by addition of the stored tail, never as 1 − Σ (pitfall 4).
    """
    if isinstance(target, SampledTarget):
        return SparseRows(target.ids_NK, target.weights_NK, target.entropy_N, target.vocab_size, sampled=True)
    if temperature == 1:
        assert target.log_tail_N is not None
        return SparseRows(target.ids_NK, target.log_probs_NK, target.log_tail_N, target.vocab_size)
    kept_NK, tail_N = target.log_probs_NK / temperature, target.log_tail_at[temperature]
    total_N = torch.logaddexp(torch.logsumexp(kept_NK, dim=1), tail_N)
    return SparseRows(target.ids_NK, kept_NK - total_N[:, None], tail_N - total_N, target.vocab_size)


def check_defined(target: SparseTarget, divergence: Divergence) -> None:
    """Raise UndefinedLoss where this divergence is not defined on this target."""
    if isinstance(target, SampledTarget):
        spec = TargetSpec(kind="sampled", k=1)
    else:
        tail: Tail = "none" if target.log_tail_N is None else "processed" if target.processed else "exact"
        spec = TargetSpec(kind="top-k", k=1, tail=tail, temperatures=tuple(target.log_tail_at))
    defined.check_defined(spec, divergence)
