"""Linear → divergence without the [N, V] logits: chunks of tokens, the gradient worked out in the forward.

N response tokens, H hidden width, V vocabulary, C tokens of a chunk. Beside the results dX [N, H] and
dW [V, H] (float32), memory is one [C, V] buffer that logits and gradient share (a second one for each further
term of the loss, for soft-capping and for dense targets). The head's product runs once per chunk and is never
repeated in the backward. Chunks smaller than H make the dW product memory-bound: keep C ≥ H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thack.config import LossSettings
from thack.errors import ModelError
from thack.losses.rows import replace_by_gradient
from thack.losses.vocabulary import log_probs
from thack.models.native.functions import linear, round_rows, rounded
from thack.models.protocol import LanguageModel
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget

_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """An output head: logits = softcap · tanh(scale · (hidden Wᵀ + b) / softcap)."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: LanguageModel) -> Projection:
        """The head of `model`, with what the model does to its logits."""
        head = model.head()
        return cls(
            weight_VH=head.weight,
            bias_V=head.bias,
            scale=float(getattr(model, "logit_scale", 1.0)),
            softcap=getattr(model, "logit_softcap", None),
        )

    def shape(self, raw_CV: Tensor) -> Tensor:
        """Scale and soft-capping, differentiable."""
        logits_CV = raw_CV if self.scale == 1 else raw_CV * self.scale
        return logits_CV if self.softcap is None else self.softcap * torch.tanh(logits_CV / self.softcap)

    def shape_(self, raw_CV: Tensor) -> Tensor | None:
        """The same in place; the derivative where it is not `scale` alone: scale · (1 − tanh²)."""
        if self.softcap is None:
            if self.scale != 1:
                raw_CV *= self.scale
            return None
        raw_CV.mul_(self.scale / self.softcap).tanh_()
        slope_CV = torch.addcmul(raw_CV.new_ones(()), raw_CV, raw_CV, value=-1).mul_(self.scale)
        raw_CV *= self.softcap
        return slope_CV


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedTeacher:
    """A live teacher before its head: projected chunk by chunk, so that it never fills [N, V] either."""

    hidden_NH: Tensor
    head: Projection

    def rows(self, rows: slice, width: int) -> DenseTarget:
        """The dense target of these rows over the first `width` ids."""
        head = self.head
        with torch.no_grad():
            dtype = self.hidden_NH.dtype
            bias_V = None if head.bias_V is None else head.bias_V.to(dtype)
            raw_CV = linear(self.hidden_NH[rows], head.weight_VH.to(dtype), bias_V)
            found_CV = log_probs(head.shape(raw_CV), width)
            if torch.isnan(found_CV.sum()):
                raise ModelError("the teacher gives NaN logits", hint="check its weights, or use `dtype = float32`")
            return DenseTarget(log_probs_NV=found_CV)

    def to_dense(self, width: int) -> DenseTarget:
        """All of it at once, where that is small."""
        return self.rows(slice(None), width)


def chunk_tokens(hidden: int, vocab_size: int) -> int:
    """Tokens per chunk: buffers of about 2²⁴ elements, but never fewer tokens than the hidden width."""
    return round_rows(max(hidden, _CHUNK_ELEMENTS // vocab_size))


def fused_divergence(
    hidden_NH: Tensor,
    head: Projection,
    target: Target | ProjectedTeacher | None,
    labels_N: Tensor,
    settings: LossSettings,
    *,
    width: int = 0,
    weights_N: Tensor | None = None,
    chunk: int = 0,
) -> Tensor:
    """Σ_n weights_n · loss_n, equal to `token_losses` on the whole logits; a scalar in float32 at least.

    target: None where the loss is the cross-entropy alone. width: ids that are compared (0: all of the head's).
    weights_N: 1 if None; the gradient is final up to one common factor, so weights belong here and not behind.
    Frozen hidden states or a frozen head cost nothing.
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
        target: Target | ProjectedTeacher | None,
        labels_N: Tensor,
        settings: LossSettings,
        width: int,
        weights_N: Tensor | None,
        size: int,
    ) -> Tensor:
        width = width or weight_VH.shape[0]
        # Rows of the head beyond `width` take no part: cut before the product, not after.
        cast_VH = weight_VH[:width].to(hidden_NH.dtype)
        cast_V = None if bias_V is None else bias_V[:width].to(hidden_NH.dtype)
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        grad_NH = torch.empty_like(hidden_NH) if need_x else None
        grad_VH = torch.zeros_like(weight_VH, dtype=wide) if need_w else None
        grad_V = torch.zeros(len(weight_VH), dtype=wide, device=hidden_NH.device) if need_b else None
        total = torch.zeros((), dtype=wide, device=hidden_NH.device)
        buffer_CV = hidden_NH.new_empty(round_rows(min(size, len(hidden_NH))), width)
        for start in range(0, len(hidden_NH), size):
            rows = slice(start, min(start + size, len(hidden_NH)))
            x_CH = rounded(hidden_NH[rows], hidden_NH.dtype)
            raw_CV = torch.mm(x_CH, cast_VH.t(), out=buffer_CV[: len(x_CH)])
            if cast_V is not None:
                raw_CV += cast_V
            count = rows.stop - rows.start
            raw_CV[count:].zero_()  # rows that only round their number: no gradient comes from them
            total += _chunk(
                raw_CV[:count],
                head,
                _rows(target, rows, width),
                labels_N[rows],
                settings,
                None if weights_N is None else weights_N[rows],
            )
            _add_gradients(raw_CV, count, x_CH, cast_VH, rows, grad_NH, grad_VH, grad_V)
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
    target: Target | None,
    labels_C: Tensor,
    settings: LossSettings,
    weights_C: Tensor | None,
) -> Tensor:
    """Σ weighted loss of one chunk, with raw_CV overwritten by its gradient."""
    slope_CV = head.shape_(raw_CV)
    loss_C = replace_by_gradient(raw_CV, target, labels_C, settings)
    if slope_CV is not None:
        raw_CV *= slope_CV
    elif head.scale != 1:
        raw_CV *= head.scale
    if weights_C is None:
        return loss_C.sum()
    raw_CV *= weights_C[:, None].to(raw_CV.dtype)
    return (loss_C * weights_C).sum()


def _add_gradients(
    grad_CV: Tensor,
    count: int,
    x_CH: Tensor,
    weight_VH: Tensor,
    rows: slice,
    grad_NH: Tensor | None,
    grad_VH: Tensor | None,
    grad_V: Tensor | None,
) -> None:
    """What one chunk gives to dX, dW and db."""
    width = len(weight_VH)
    if grad_NH is not None:
        torch.mm(grad_CV[:count], weight_VH, out=grad_NH[rows])
    if grad_VH is not None:
        # A product of the chunk in its own type, added up over chunks in float32.
        if grad_CV.dtype == grad_VH.dtype:
            grad_VH[:width].addmm_(grad_CV.t(), x_CH)
        else:
            grad_VH[:width] += torch.mm(grad_CV.t(), x_CH)
    if grad_V is not None:
        grad_V[:width] += grad_CV.sum(dim=0, dtype=grad_V.dtype)


def _rows(target: Target | ProjectedTeacher | None, rows: slice, width: int) -> Target | None:
    if target is None:
        return None
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
