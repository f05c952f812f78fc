"""Fused linear divergence, of which fused linear cross-entropy is a case: the [N, V] logits never exist.

The LM head's product and the loss are taken together, chunk by chunk of tokens, with the gradient worked out in the
forward. N response tokens, H hidden width, V vocabulary, C tokens of a chunk.

Memory beside the results dX [N, H] and dW [V, H] (float32): one [C, V] buffer that logits and gradient share, and a
further one for each term of the loss but the last (at most two), for soft-capping, and for a dense target; on the CPU
one of dW's size. Logits are float32 also where hidden states have 16 bits: near convergence the gradient is a
difference that 16-bit logits round away. Their gradient is then rounded for the products behind it, in a buffer of 16
bits more. The product runs once per chunk and is never repeated in the backward. Chunks smaller than H make the dW
product memory-bound: keep C ≥ H.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thack._torch_private import single_precision_product_
from thack.config import LossSettings
from thack.config.specs import loss_terms
from thack.errors import UndefinedLoss
from thack.losses.frozen_head import linear_part
from thack.losses.rows import Sides, check_batch, replace_by_gradient, sides_of
from thack.losses.shapes import check_rows
from thack.losses.tally import Tally
from thack.models.native.functions import by_onednn, input_gradient, round_rows, rounded, weight_gradient
from thack.schema.defined import check_defined
from thack.schema.targets import LossTerm, TargetSpec
from thack.targets.cells import CellTarget
from thack.targets.projected import ProjectedTeacher, Projection
from thack.targets.types import FrozenHeadTarget, Target

_CHUNK_ELEMENTS = 1 << 24


def chunk_tokens(hidden: int, vocab_size: int) -> int:
    """Tokens per chunk: buffers of about 2²⁴ elements, but never fewer tokens than the hidden width."""
    return round_rows(max(hidden, _CHUNK_ELEMENTS // vocab_size))


def fused_divergence(
    hidden_NH: Tensor,
    head: Projection,
    target: Target | CellTarget | ProjectedTeacher | None,
    labels_N: Tensor,
    settings: LossSettings,
    *,
    width: int = 0,
    weights_N: Tensor | None = None,
    sides: Sides | None = None,
    chunk: int = 0,
) -> Tensor:
    """Σ_n weights_n · loss_n, equal to `token_losses` on the whole logits.

    Args:
        hidden_NH: the student's hidden states; with a frozen body their gradient costs nothing.
        head: the student's LM head; frozen, its gradient costs nothing.
        target: None where the cross-entropy is the only term.
        labels_N: int64, the response tokens.
        settings: the terms of the loss and their weights.
        width: ids that are compared; 0: all rows of the head.
        weights_N: 1 if None. Apply weights here: the backward rescales by one scalar only.
        sides: as of `token_losses`.
        chunk: tokens per chunk; 0: `chunk_tokens`.

    Returns:
        A scalar, float32 at least, differentiable in hidden states, weight and bias.

    Raises:
        UndefinedLoss: a divergence is not defined on this kind of target.
        MismatchError: target, labels or weights are of other rows or ids; a label is outside the vocabulary.

    Example:
        >>> head = Projection(weight_VH=torch.zeros(4, 2))
        >>> settings = LossSettings(weight=0.0, ce_weight=1.0)
        >>> round(float(fused_divergence(torch.ones(3, 2), head, None, torch.tensor([0, 1, 2]), settings)), 4)
        4.1589
    """
    work = HeadLoss(
        head=head,
        target=target,
        labels_N=labels_N,
        weights_N=weights_N,
        sides=sides or sides_of(settings),
        terms=loss_terms(settings),
        width=width or len(head.weight_VH),
        chunk=chunk or chunk_tokens(hidden_NH.shape[1], len(head.weight_VH)),
    )
    check_batch((len(hidden_NH), work.width), target, labels_N, work.sides)
    check_rows(len(hidden_NH), weights_N=weights_N)
    total: Tensor = _Fused.apply(hidden_NH, head.weight_VH, head.bias_V, work)
    return total if not isinstance(target, FrozenHeadTarget) else total + _linear(hidden_NH, target, work)


def _linear(hidden_NH: Tensor, target: FrozenHeadTarget, work: HeadLoss) -> Tensor:
    """The part of forward KL that does not pass through the logits, with the weights of its term and its tokens."""
    head = work.head
    if head.weight_VH.requires_grad or head.bias_V is not None or head.softcap is not None:
        raise UndefinedLoss(
            "a projected target needs a frozen head without bias or bound",
            hint="set `lora.rank`, which trains an adapter below the head",
        )
    weight = sum(term.weight for term in work.terms if term.divergence is not None)
    for term in work.terms:
        if term.divergence is not None:
            check_defined(TargetSpec(kind="projected", k=target.mean_NH.shape[1], value_bits=16), term.divergence)
    loss_N = weight * linear_part(hidden_NH, target, head.scale)
    hard_N = replace(work.sides, tally=Tally()).hard_share(target, work.labels_N)  # counted with the logits already
    loss_N = loss_N if hard_N is None else loss_N * (1 - hard_N)
    return (loss_N if work.weights_N is None else loss_N * work.weights_N).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLoss:
    """All that the fused loss needs beside the tensors that get a gradient."""

    head: Projection
    target: Target | CellTarget | ProjectedTeacher | None
    labels_N: Tensor
    weights_N: Tensor | None
    sides: Sides
    terms: tuple[LossTerm, ...]
    width: int
    chunk: int

    def chunks(self, num_tokens: int) -> Iterator[slice]:
        for start in range(0, num_tokens, self.chunk):
            yield slice(start, min(start + self.chunk, num_tokens))

    def replace_by_gradient(self, raw_CV: Tensor, rows: slice) -> Tensor:
        """Σ weighted loss of one chunk, with the head's raw product overwritten by its gradient."""
        slope_CV = self.head.shape_(raw_CV)
        target = None if self.target is None else self.target.rows(rows)
        loss_C = replace_by_gradient(raw_CV, target, self.labels_N[rows], self.terms, self.sides.rows(rows))
        if slope_CV is not None:
            raw_CV *= slope_CV
        elif self.head.scale != 1:
            raw_CV *= self.head.scale
        if self.weights_N is None:
            return loss_C.sum()
        weights_C = self.weights_N[rows]
        raw_CV *= weights_C[:, None].to(raw_CV.dtype)
        return (loss_C * weights_C).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gradients:
    """dX, dW and db so far; None where none is wanted. Of the weight and the bias in float32 at least."""

    hidden_NH: Tensor | None
    weight_VH: Tensor | None
    bias_V: Tensor | None

    def add(self, grad_CV: Tensor, x_CH: Tensor, weight_VH: Tensor, rows: slice) -> None:
        """What one chunk gives, from factors of one type. Rows of grad_CV beyond `rows` only round their number: 0."""
        width, count = len(weight_VH), rows.stop - rows.start
        fast = by_onednn(grad_CV)  # a product of its own, for the speed; otherwise no memory beside the result
        if self.hidden_NH is not None:
            if fast:
                self.hidden_NH[rows] = input_gradient(grad_CV, weight_VH)[:count]
            else:
                torch.mm(grad_CV[:count], weight_VH, out=self.hidden_NH[rows])
        if self.weight_VH is not None:
            # A product of the chunk in its own type, added up over chunks in float32.
            if fast or grad_CV.dtype != self.weight_VH.dtype:
                self.weight_VH[:width] += weight_gradient(grad_CV, x_CH)
            else:
                self.weight_VH[:width].addmm_(grad_CV.t(), x_CH)
        if self.bias_V is not None:
            self.bias_V[:width] += grad_CV.sum(dim=0, dtype=self.bias_V.dtype)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, work: HeadLoss) -> Tensor:
        width, dtype = work.width, hidden_NH.dtype
        wide = torch.promote_types(dtype, torch.float32)
        # Rows of the head beyond `width` take no part: cut before the product, not after.
        cast_VH = weight_VH[:width].to(dtype)
        cast_V = None if bias_V is None else bias_V[:width].to(dtype)
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        gradients = _Gradients(
            hidden_NH=torch.empty_like(hidden_NH) if need_x else None,
            weight_VH=torch.zeros_like(weight_VH, dtype=wide) if need_w else None,
            bias_V=torch.zeros(len(weight_VH), dtype=wide, device=hidden_NH.device) if need_b else None,
        )
        total = torch.zeros((), dtype=wide, device=hidden_NH.device)
        buffer_CV = hidden_NH.new_empty(round_rows(min(work.chunk, len(hidden_NH))), width, dtype=wide)
        rounded_CV = buffer_CV if dtype == wide else torch.empty_like(buffer_CV, dtype=dtype)
        for rows in work.chunks(len(hidden_NH)):
            x_CH = rounded(hidden_NH[rows], dtype)
            raw_CV = buffer_CV[: len(x_CH)]
            if dtype == wide:
                torch.mm(x_CH, cast_VH.t(), out=raw_CV)
            else:
                single_precision_product_(raw_CV, x_CH, weight_VH[:width])
            if cast_V is not None:
                raw_CV += cast_V
            count = rows.stop - rows.start
            raw_CV[count:].zero_()
            total += work.replace_by_gradient(raw_CV[:count], rows)
            grad_CV = raw_CV if dtype == wide else rounded_CV[: len(x_CH)].copy_(raw_CV)
            gradients.add(grad_CV, x_CH, cast_VH, rows)
        ctx.save_for_backward(gradients.hidden_NH, gradients.weight_VH, gradients.bias_V)
        ctx.dtypes = (weight_VH.dtype, None if bias_V is None else bias_V.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_NH, grad_VH, grad_V = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_NH is None else grad_NH * grad.to(grad_NH.dtype),
            None if grad_VH is None else (grad_VH * grad).to(weight_dtype),
            None if grad_V is None else (grad_V * grad).to(bias_dtype),
            None,
        )
