"""Divergences on cached sparse targets with their gradients: two Rust sweeps on the CPU, torch elsewhere.

Three faces of one kernel. `sparse_divergence` leaves the logits alone: it copies them, and the copy becomes the
gradient. With `overwrite=True` the logits themselves do, for whoever has no other use for them. Outside of
autograd, `sparse_divergence_` does the same on a buffer, label and weights included: what `losses.fused` calls.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thack import _native
from thack.errors import UndefinedLoss, UsageError
from thack.kernels.buffers import Array, rows
from thack.schema.targets import DivergenceKind
from thack.targets.types import SampledTarget, TopKTarget

SparseTarget = TopKTarget | SampledTarget


def sparse_divergence(
    student_logits_NV: Tensor,
    target: SparseTarget,
    *,
    kind: DivergenceKind = "forward_kl",
    beta: float = 0.5,
    skew: float = 0.1,
    temperature: float = 1.0,
    weights_N: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """weight_n · loss_n in float32 (nats, times T²), differentiable in the student's logits.

    On K+1 numbers: the K ids and all others as one bucket, the student's share of which is a masked
    log-sum-exp. Sampled targets: −Σ w log q − H(p), forward KL at T = 1 only. UndefinedLoss where the target
    has no tail at this temperature, or reverse KL is infinite (the student has mass where the teacher has none).

    weights_N: 1 if None; a row of weight 0 is ignored, whatever its logits are.
    overwrite: the logits' memory holds their gradient afterwards. No [N, V] tensor is allocated, in the forward or
        in the backward, which runs once. For contiguous results of an operation that does not keep its result.
    """
    spec = _Spec(target, kind, skew if kind == "skewed_kl" else beta, temperature)
    if student_logits_NV.device.type != "cpu":
        return spec.by_torch(student_logits_NV, None, 0.0, weights_N)
    if overwrite:
        _check_overwritable(student_logits_NV)
    loss_N: Tensor = _Sparse.apply(student_logits_NV, spec, weights_N, overwrite)
    return loss_N


def sparse_divergence_(
    logits_NW: Tensor,
    target: SparseTarget,
    *,
    kind: DivergenceKind = "forward_kl",
    beta: float = 0.5,
    skew: float = 0.1,
    temperature: float = 1.0,
    labels_N: Tensor | None = None,
    ce_weight: float = 0.0,
    weights_N: Tensor | None = None,
) -> Tensor:
    """weight_n · (loss_n + ce_weight · −log q(label_n)); the logits become the gradient of the sum. No autograd.

    W ≥ the target's vocabulary: further columns are nobody's tokens and get gradient 0. A negative label has no
    cross-entropy, which is at temperature 1. Other arguments as for `sparse_divergence`.
    """
    spec = _Spec(target, kind, skew if kind == "skewed_kl" else beta, temperature)
    labels_N = labels_N if ce_weight else None
    if logits_NW.device.type == "cpu":
        return spec.in_place(logits_NW, labels_N, ce_weight, weights_N)
    with torch.enable_grad():
        leaf_NV = logits_NW[:, : target.vocab_size].detach().requires_grad_()
        loss_N = spec.by_torch(leaf_NV, labels_N, ce_weight, weights_N)
        (grad_NV,) = torch.autograd.grad(loss_N.sum(), leaf_NV)
    logits_NW[:, target.vocab_size :] = 0
    logits_NW[:, : target.vocab_size] = grad_NV
    return loss_N.detach()


def reference(
    logits_NV: Tensor,
    target: SparseTarget,
    *,
    kind: DivergenceKind = "forward_kl",
    beta: float = 0.5,
    skew: float = 0.1,
    temperature: float = 1.0,
) -> Tensor:
    """loss_N by torch's own operations and autograd, on any device: the definition."""
    spec = _Spec(target, kind, skew if kind == "skewed_kl" else beta, temperature)
    return spec.by_torch(logits_NV, None, 0.0, None)


class _Spec:
    """A divergence on a target, at its temperature."""

    def __init__(self, target: SparseTarget, kind: DivergenceKind, parameter: float, temperature: float) -> None:
        self.target, self.parameter, self.temperature = target, parameter, temperature
        self.name, self.values_NK, self.rest_N = _at_temperature(target, kind, temperature)

    def in_place(self, logits_NW: Tensor, labels_N: Tensor | None, ce: float, weights_N: Tensor | None) -> Tensor:
        """Rust's two sweeps over contiguous rows."""
        if not logits_NW.is_contiguous():
            raise UsageError("logits to overwrite are not contiguous", hint="leave padded columns where they are")
        words, name, columns = rows(logits_NW)
        losses = np.empty(len(logits_NW), np.float32)
        _native.sparse_divergence(
            words,
            name,
            self.target.vocab_size,
            _array(self.target.ids_NK, np.int32),
            _array(self.values_NK, np.float32),
            _array(self.rest_N, np.float32),
            self.name,
            self.parameter,
            self.temperature,
            losses,
            columns=columns,
            labels=None if labels_N is None else _array(labels_N, np.int64),
            weights=None if weights_N is None else _array(weights_N, np.float32),
            ce_weight=ce,
        )
        return torch.from_numpy(losses)

    def by_torch(self, logits_NV: Tensor, labels_N: Tensor | None, ce: float, weights_N: Tensor | None) -> Tensor:
        """The definition, by autograd; also what the Rust kernel is tested against."""
        if weights_N is not None:  # an ignored row may hold NaN, which a product with 0 would not hide
            logits_NV = logits_NV.masked_fill(weights_N[:, None] == 0, 0.0)
        z_NV = logits_NV.float()
        ids_NK = self.target.ids_NK.long()
        loss_N = _by_torch(z_NV, ids_NK, self.name, self.parameter, self.temperature, self.values_NK, self.rest_N)
        if labels_N is not None:
            known_N = labels_N.clamp_min(-1)
            loss_N = loss_N + ce * torch.nn.functional.cross_entropy(z_NV, known_N, reduction="none", ignore_index=-1)
        return loss_N if weights_N is None else torch.where(weights_N == 0, 0.0, loss_N) * weights_N


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, spec: _Spec, weights_N: Tensor | None, overwrite: bool) -> Tensor:
        grad_NV = logits_NV.detach()
        if not overwrite:
            grad_NV = grad_NV.clone(memory_format=torch.contiguous_format)
        loss_N = spec.in_place(grad_NV, None, 0.0, weights_N)
        if overwrite:  # whoever kept the logits for a backward of its own hears of it there
            torch.autograd.graph.increment_version(grad_NV)
        ctx.save_for_backward(grad_NV)
        ctx.overwrite, ctx.used = overwrite, False
        return loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.used:
            raise UsageError("a divergence that overwrote its logits has one backward", hint="use overwrite=False")
        (grad_NV,) = ctx.saved_tensors
        if bool((upstream_N == 1).all()):  # a plain sum: the gradient is there already
            return grad_NV, None, None, None
        upstream_N1 = upstream_N[:, None].to(grad_NV.dtype)
        ctx.used = ctx.overwrite
        return (grad_NV.mul_(upstream_N1) if ctx.overwrite else grad_NV * upstream_N1), None, None, None


def _check_overwritable(logits_NV: Tensor) -> None:
    if logits_NV.requires_grad and logits_NV.is_leaf:
        raise UsageError("logits that are a parameter cannot be overwritten", hint="use overwrite=False")


def _at_temperature(target: SparseTarget, kind: DivergenceKind, temperature: float) -> tuple[str, Tensor, Tensor]:
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
    z_NV: Tensor,
    ids_NK: Tensor,
    kind: str,
    parameter: float,
    temperature: float,
    values_NK: Tensor,
    rest_N: Tensor,
) -> Tensor:
    z_NV = z_NV if temperature == 1 else z_NV / temperature
    log_all_N = torch.logsumexp(z_NV, dim=1)
    log_q_NK = z_NV.gather(1, ids_NK) - log_all_N[:, None]
    if kind == "sampled":
        cross_N = -(values_NK * torch.where(values_NK > 0, log_q_NK, 0.0)).sum(1)
        return cross_N - rest_N
    tail_N = _logsumexp(z_NV.scatter(1, ids_NK, float("-inf"))) - log_all_N
    log_p = torch.cat([values_NK, rest_N[:, None]], dim=1)
    log_q = torch.cat([log_q_NK, tail_N[:, None]], dim=1)
    if kind == "reverse_kl" and bool(((log_q > float("-inf")) & (log_p == float("-inf"))).any()):
        raise UndefinedLoss(
            "reverse KL is infinite, the student has mass where the teacher has none",
            hint="use forward_kl, jsd or skewed_kl",
        )
    return temperature**2 * _terms(kind, log_p, log_q, parameter).sum(1)


def _terms(kind: str, log_p: Tensor, log_q: Tensor, parameter: float) -> Tensor:
    if kind == "forward_kl":
        return _part(log_p, log_q)
    if kind == "reverse_kl":
        return _part(log_q, log_p)
    if kind == "total_variation":
        return 0.5 * (log_p.exp() - log_q.exp()).abs()
    log_m = _logsumexp(torch.stack([_log(parameter) + log_p, _log(1 - parameter) + log_q], dim=1))
    if kind == "skewed_kl":
        return _part(log_p, log_m)
    return parameter * _part(log_p, log_m) + (1 - parameter) * _part(log_q, log_m)


def _logsumexp(x_NK: Tensor) -> Tensor:
    """Over dim 1; where there is nothing but −inf its gradient is 0, not NaN."""
    empty = x_NK.amax(dim=1, keepdim=True) == float("-inf")
    found = torch.logsumexp(x_NK.masked_fill(empty, 0.0), dim=1)
    return found.masked_fill(empty.squeeze(1), float("-inf"))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else float("-inf")


def _part(log_x: Tensor, log_y: Tensor) -> Tensor:
    """x·(log x − log y), 0 where x is: masked before the arithmetic (pitfall 12)."""
    some = log_x > float("-inf")
    safe_x, safe_y = torch.where(some, log_x, 0.0), torch.where(some, log_y, 0.0)
    return torch.where(some, safe_x.exp() * (safe_x - safe_y), 0.0)


def _array(tensor: Tensor, dtype: Any) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=dtype)
