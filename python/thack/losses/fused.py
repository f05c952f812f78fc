"""Linear → divergence without the [N, V] logits: chunks of tokens, the gradient worked out in the forward.

N response tokens, H hidden width, V vocabulary, C tokens of a chunk. Beside the results dX [N, H] and
dW [V, H] (float32), memory is a few [C, V] buffers. The head's product runs once per chunk and is never
repeated in the backward. Chunks smaller than H make the dW product memory-bound: keep C ≥ H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thack.config.settings import LossSettings
from thack.losses.dispatch import token_losses
from thack.losses.vocabulary import log_probs
from thack.targets import DenseTarget, SampledTarget, Target, TopKTarget

_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """An output head: logits = softcap · tanh(scale · (hidden Wᵀ + b) / softcap)."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def shape(self, raw_CV: Tensor) -> Tensor:
        """Scale and soft-capping, differentiable."""
        logits_CV = raw_CV if self.scale == 1 else raw_CV * self.scale
        return logits_CV if self.softcap is None else self.softcap * torch.tanh(logits_CV / self.softcap)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedTeacher:
    """A live teacher before its head: projected chunk by chunk, so that it never fills [N, V] either."""

    hidden_NH: Tensor
    head: Projection

    def rows(self, rows: slice, width: int) -> DenseTarget:
        """The dense target of these rows over the first `width` ids."""
        head = self.head
        with torch.no_grad():
            weight_VH = head.weight_VH.to(self.hidden_NH.dtype)
            raw_CV = torch.nn.functional.linear(self.hidden_NH[rows], weight_VH, head.bias_V)
            return DenseTarget(log_probs_NV=log_probs(head.shape(raw_CV), width))


def chunk_tokens(hidden: int, vocab_size: int) -> int:
    """Tokens per chunk: buffers of about 2²⁴ elements, but never fewer tokens than the hidden width."""
    return max(hidden, _CHUNK_ELEMENTS // vocab_size)


def fused_divergence(
    hidden_NH: Tensor,
    head: Projection,
    target: Target | ProjectedTeacher,
    labels_N: Tensor,
    settings: LossSettings,
    *,
    width: int = 0,
    weights_N: Tensor | None = None,
    chunk: int = 0,
) -> Tensor:
    """Σ_n weights_n · loss_n, equal to `token_losses` on the whole logits; a scalar in float32 at least.

    width: ids that are compared (0: all of the head's). weights_N: 1 if None; the gradient is final up to one
    common factor, so weights belong here and not behind. Frozen hidden states or a frozen head cost nothing.
    """
    size = chunk or chunk_tokens(hidden_NH.shape[1], head.weight_VH.shape[0])
    total: Tensor = _Fused.apply(
        hidden_NH, head.weight_VH, head.bias_V, head, target, labels_N, settings, width, weights_N, size
    )
    return total


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        head: Projection,
        target: Target | ProjectedTeacher,
        labels_N: Tensor,
        settings: LossSettings,
        width: int,
        weights_N: Tensor | None,
        size: int,
    ) -> Tensor:
        vocab_size = weight_VH.shape[0]
        cast_VH = weight_VH.to(hidden_NH.dtype)
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        grad_NH = torch.empty_like(hidden_NH) if need_x else None
        grad_VH = torch.zeros_like(weight_VH, dtype=wide) if need_w else None
        grad_V = torch.zeros(vocab_size, dtype=wide, device=hidden_NH.device) if need_b else None
        buffer_CV = hidden_NH.new_empty(min(size, hidden_NH.shape[0]), vocab_size)
        total = torch.zeros((), dtype=wide, device=hidden_NH.device)
        for start in range(0, hidden_NH.shape[0], size):
            rows = slice(start, min(start + size, hidden_NH.shape[0]))
            x_CH = hidden_NH[rows]
            raw_CV = torch.mm(x_CH, cast_VH.t(), out=buffer_CV[: x_CH.shape[0]])
            if bias_V is not None:
                raw_CV += bias_V
            loss, grad_CV = _chunk(
                raw_CV,
                head,
                _rows(target, rows, width or vocab_size),
                labels_N[rows],
                settings,
                width or vocab_size,
                None if weights_N is None else weights_N[rows],
            )
            total += loss
            if grad_NH is not None:
                torch.mm(grad_CV, cast_VH, out=grad_NH[rows])
            if grad_VH is not None:
                # A product of the chunk in its own type, added up over chunks in float32.
                if grad_CV.dtype == wide:
                    grad_VH.addmm_(grad_CV.t(), x_CH)
                else:
                    grad_VH += torch.mm(grad_CV.t(), x_CH)
            if grad_V is not None:
                grad_V += grad_CV.sum(dim=0, dtype=wide)
        ctx.save_for_backward(grad_NH, grad_VH, grad_V)
        ctx.dtypes = (weight_VH.dtype, None if bias_V is None else bias_V.dtype)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_NH, grad_VH, grad_V = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_NH is None else grad_NH * grad.to(grad_NH.dtype),
            None if grad_VH is None else (grad_VH * grad).to(weight_dtype),
            None if grad_V is None else (grad_V * grad).to(bias_dtype),
            *(None,) * 7,
        )


def _chunk(
    raw_CV: Tensor,
    head: Projection,
    target: Target,
    labels_C: Tensor,
    settings: LossSettings,
    width: int,
    weights_C: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(Σ weighted loss, its gradient by raw_CV) of one chunk, by autograd over this chunk alone."""
    with torch.enable_grad():
        leaf_CV = raw_CV.detach().requires_grad_()
        loss_C = token_losses(head.shape(leaf_CV)[:, :width], target, labels_C, settings)
        loss = loss_C.sum() if weights_C is None else (loss_C * weights_C).sum()
        (grad_CV,) = torch.autograd.grad(loss, leaf_CV)
    return loss.detach(), grad_CV


def _rows(target: Target | ProjectedTeacher, rows: slice, width: int) -> Target:
    if isinstance(target, ProjectedTeacher):
        return target.rows(rows, width)
    if isinstance(target, DenseTarget):
        return DenseTarget(log_probs_NV=target.log_probs_NV[rows])
    if isinstance(target, TopKTarget):
        return TopKTarget(
            ids_NK=target.ids_NK[rows],
            log_probs_NK=target.log_probs_NK[rows],
            log_tail_N=None if target.log_tail_N is None else target.log_tail_N[rows],
            vocab_size=target.vocab_size,
            log_tail_at={t: tail[rows] for t, tail in target.log_tail_at.items()},
        )
    return SampledTarget(
        ids_NK=target.ids_NK[rows],
        weights_NK=target.weights_NK[rows],
        counts_N=target.counts_N[rows],
        tau_N=target.tau_N[rows],
        entropy_N=target.entropy_N[rows],
        vocab_size=target.vocab_size,
    )
