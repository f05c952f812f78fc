"""Divergences on cached sparse targets with their gradients: one Rust pass on the CPU, torch elsewhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thack import _thack
from thack.config.settings import Divergence
from thack.errors import UndefinedLoss
from thack.kernels.buffers import Array, rows
from thack.targets import SampledTarget, TopKTarget

SparseTarget = TopKTarget | SampledTarget


def sparse_divergence(
    student_logits_NV: Tensor,
    target: SparseTarget,
    *,
    kind: Divergence = "forward_kl",
    beta: float = 0.5,
    skew: float = 0.1,
    temperature: float = 1.0,
) -> Tensor:
    """loss_N (float32, nats, times T²), differentiable in the student's logits.

    On K+1 numbers: the K ids and all others as one bucket, the student's share of which is a masked
    log-sum-exp. Sampled targets: −Σ w log q − H(p), forward KL at T = 1 only. UndefinedLoss where the target
    has no tail at this temperature.
    """
    parameter = skew if kind == "skewed_kl" else beta
    name, values_NK, rest_N = _at_temperature(target, kind, temperature)
    if student_logits_NV.device.type != "cpu":
        return _by_torch(student_logits_NV, target, name, parameter, temperature, values_NK, rest_N)
    loss_N: Tensor = _Sparse.apply(
        student_logits_NV, _array(target.ids_NK, np.int32), values_NK, rest_N, name, parameter, temperature
    )
    return loss_N


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_NV: Tensor,
        ids_NK: Array,
        values_NK: Tensor,
        rest_N: Tensor,
        kind: str,
        parameter: float,
        temperature: float,
    ) -> Tensor:
        grad_NV = logits_NV.detach().clone(memory_format=torch.contiguous_format)
        words, name, vocab = rows(grad_NV)
        losses = np.empty(len(grad_NV), np.float32)
        values, rest = _array(values_NK, np.float32), _array(rest_N, np.float32)
        _thack.sparse_divergence(words, name, vocab, ids_NK, values, rest, kind, parameter, temperature, losses)
        ctx.save_for_backward(grad_NV)
        return torch.from_numpy(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NV,) = ctx.saved_tensors
        return grad_NV * upstream_N[:, None].to(grad_NV.dtype), None, None, None, None, None, None


def _at_temperature(target: SparseTarget, kind: Divergence, temperature: float) -> tuple[str, Tensor, Tensor]:
    """The kernel's name of the divergence, and the target's K values and the rest at T."""
    if isinstance(target, SampledTarget):
        if kind != "forward_kl" or temperature != 1:
            raise UndefinedLoss(f"{kind} at T = {temperature:g} is not defined on sampled targets")
        return "sampled", target.weights_NK, target.entropy_N
    if target.log_tail_N is None:
        raise UndefinedLoss(f"{kind} is not defined on a top-k target without its tail")
    if temperature == 1:
        return kind, target.log_probs_NK, target.log_tail_N
    if temperature not in target.log_tail_at:
        raise UndefinedLoss(f"the target's tail at T = {temperature:g} is not known")
    head_NK, tail_N = target.log_probs_NK / temperature, target.log_tail_at[temperature]
    total_N = torch.logaddexp(torch.logsumexp(head_NK, dim=1), tail_N)
    return kind, head_NK - total_N[:, None], tail_N - total_N


def _by_torch(
    logits_NV: Tensor,
    target: SparseTarget,
    kind: str,
    parameter: float,
    temperature: float,
    values_NK: Tensor,
    rest_N: Tensor,
) -> Tensor:
    """The definition, by autograd; also what the Rust kernel is tested against."""
    z_NV = logits_NV.float() / temperature
    ids_NK = target.ids_NK.long()
    log_all_N = torch.logsumexp(z_NV, dim=1)
    log_q_NK = z_NV.gather(1, ids_NK) - log_all_N[:, None]
    if kind == "sampled":
        cross_N = -(values_NK * torch.where(values_NK > 0, log_q_NK, 0.0)).sum(1)
        return cross_N - rest_N
    tail_N = torch.logsumexp(z_NV.scatter(1, ids_NK, float("-inf")), dim=1) - log_all_N
    log_p = torch.cat([values_NK, rest_N[:, None]], dim=1)
    log_q = torch.cat([log_q_NK, tail_N[:, None]], dim=1)
    return temperature**2 * _terms(kind, log_p, log_q, parameter).sum(1)


def _terms(kind: str, log_p: Tensor, log_q: Tensor, parameter: float) -> Tensor:
    if kind == "forward_kl":
        return _part(log_p, log_q)
    if kind == "reverse_kl":
        return _part(log_q, log_p)
    if kind == "total_variation":
        return 0.5 * (log_p.exp() - log_q.exp()).abs()
    log_m = torch.logaddexp(math.log(parameter) + log_p, math.log1p(-parameter) + log_q)
    if kind == "skewed_kl":
        return _part(log_p, log_m)
    return parameter * _part(log_p, log_m) + (1 - parameter) * _part(log_q, log_m)


def _part(log_x: Tensor, log_y: Tensor) -> Tensor:
    """x·(log x − log y), 0 where x is: masked before the arithmetic (trap 12)."""
    some = log_x > float("-inf")
    safe_x, safe_y = torch.where(some, log_x, 0.0), torch.where(some, log_y, 0.0)
    return torch.where(some, safe_x.exp() * (safe_x - safe_y), 0.0)


def _array(tensor: Tensor, dtype: Any) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=dtype)
