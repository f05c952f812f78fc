"""A live teacher before its LM head: its distributions are projected chunk by chunk and never fill [N, V].

N response tokens, H hidden width, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thack._torch_private import single_precision_product_
from thack.errors import ModelError
from thack.models.batch import Batch
from thack.models.native.functions import linear
from thack.models.precision import FLOAT32, Precision
from thack.models.protocol import LanguageModel
from thack.targets.select import teacher_log_probs
from thack.targets.types import DenseTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """An LM head: logits = softcap · tanh(scale · (hidden Wᵀ + b) / softcap).

    Args:
        weight_VH: one row per id.
        bias_V: None: no bias.
        scale: factor of the logits.
        softcap: None: the logits are not capped.
    """

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: LanguageModel) -> Projection:
        """The LM head of `model`, with what the model does to its logits; its `head_form` must not be None."""
        head, form = model.head(), model.head_form
        if form is None:
            raise ModelError(
                f"{type(model).__name__} does more to its logits than scale and cap them",
                hint="use `loss.fused = auto`, which computes its logits in full",
            )
        return cls(weight_VH=head.weight, bias_V=head.bias, scale=form.scale, softcap=form.softcap)

    def wide_logits(self, hidden_NH: Tensor) -> Tensor:
        """logits_NV in float32 at least, differentiable."""
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        bias_V = None if self.bias_V is None else self.bias_V.to(dtype)
        return self.shape(linear(hidden_NH.to(dtype), self.weight_VH.to(dtype), bias_V))

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
    """A dense target that is not computed yet: hidden states and the LM head that projects them.

    Args:
        hidden_NH: the teacher's hidden states, one row per response token.
        head: the teacher's LM head.
        width: ids that are compared; 0: all rows of the head.
    """

    hidden_NH: Tensor
    head: Projection
    width: int = 0

    def __len__(self) -> int:
        """N."""
        return len(self.hidden_NH)

    @property
    def vocab_size(self) -> int:
        return self.width or len(self.head.weight_VH)

    def rows(self, rows: slice) -> DenseTarget:
        """The dense target of these response tokens.

        Raises:
            ModelError: a row of the teacher's logits holds NaN or +inf.
        """
        with torch.no_grad():
            log_probs_CV = teacher_log_probs(self.logits(rows), self.vocab_size)
        return DenseTarget(log_probs_NV=log_probs_CV)

    def logits(self, rows: slice = slice(None)) -> Tensor:
        """logits_CV of these response tokens, in float32 at least."""
        with torch.no_grad():
            return self.head.shape(self._raw(self.hidden_NH[rows]))

    def _raw(self, hidden_CH: Tensor) -> Tensor:
        """The LM head's product, in float32 at least (see `losses.fused`)."""
        weight_VH, bias_V, dtype = self.head.weight_VH, self.head.bias_V, hidden_CH.dtype
        if dtype not in (torch.float16, torch.bfloat16):
            return linear(hidden_CH, weight_VH.to(dtype), None if bias_V is None else bias_V.to(dtype))
        raw_CV = hidden_CH.new_empty(len(hidden_CH), len(weight_VH), dtype=torch.float32)
        single_precision_product_(raw_CV, hidden_CH, weight_VH)
        return raw_CV if bias_V is None else raw_CV.add_(bias_V)

    def to_dense(self) -> DenseTarget:
        """All rows at once, where they are few."""
        return self.rows(slice(None))


def before_head(teacher: LanguageModel, batch: Batch, precision: Precision, width: int = 0) -> ProjectedTeacher:
    """The rows of a batch, scored up to the LM head; its `head_form` must not be None."""
    with torch.no_grad(), precision.autocast(teacher):
        hidden_NH = teacher(batch, project=False)
    if precision.dtype != torch.float32:
        hidden_NH = hidden_NH.to(precision.dtype)  # the factors of the head's product are in this format too
    return ProjectedTeacher(hidden_NH=hidden_NH, head=Projection.of(teacher), width=width)


def teacher_logits(teacher: LanguageModel, batch: Batch, precision: Precision = FLOAT32) -> Tensor:
    """logits_NV of a capture and of a live teacher alike: in float32, where the model's own product would round them.

    The model's own logits where it runs in float32, or where its head does more than scale and cap them.
    """
    rounds = precision.dtype != torch.float32 or teacher.head().weight.dtype in (torch.float16, torch.bfloat16)
    if rounds and teacher.head_form is not None:
        return before_head(teacher, batch, precision).logits()
    with torch.no_grad(), precision.autocast(teacher):
        return teacher(batch)
