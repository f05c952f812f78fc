"""Rows of student logits in, losses out, and each row replaced by its gradient: what the fused head works with.

C tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from thack import kernels
from thack.kernels import SparseRows
from thack.losses.cells import cell_divergence_
from thack.losses.dense import value_and_gradient
from thack.losses.sparse import at_temperature, check_defined, has_kernel
from thack.losses.sweeps import sparse_by_sweeps_
from thack.schema.targets import Divergence, LossTerm
from thack.targets.cells import CellTarget
from thack.targets.types import DenseTarget, SparseTarget, Target

_FORWARD_KL = Divergence()


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a weighted sum. `apply_` returns its loss_C and overwrites the rows with the gradient of that."""

    weight: float
    apply_: Callable[[Tensor], Tensor]

    def weighted_(self, rows_CV: Tensor) -> Tensor:
        loss_C = self.weight * self.apply_(rows_CV)
        if self.weight != 1:
            rows_CV *= self.weight
        return loss_C


def replace_by_gradient(
    logits_CV: Tensor, target: Target | CellTarget | None, labels_C: Tensor, terms: Sequence[LossTerm]
) -> Tensor:
    """loss_C, the weighted sum of `terms`, with logits_CV overwritten by its gradient, row by row.

    Args:
        logits_CV: the student's; contiguous rows of float32, bfloat16, float16 or float64.
        target: None where the cross-entropy is the only term.
        labels_C: int64, for the cross-entropy.
        terms: at least one, of weights other than 0 (`config.specs.loss_terms`).

    Returns:
        float32 at least; nats, times T².

    Raises:
        UndefinedLoss: a divergence is not defined on this target.
    """
    *first, last = _plan(logits_CV, target, labels_C, terms)
    # Memory: the last term overwrites the rows themselves; each one before it works on a copy, and their gradients
    # are added up in the first copy. So a single term needs no copy, and a sum at most two at a time.
    total_C: Tensor | None = None
    gradient_CV: Tensor | None = None
    for term in first:
        copy_CV = logits_CV.clone()
        loss_C = term.weighted_(copy_CV)
        total_C = loss_C if total_C is None else total_C + loss_C
        gradient_CV = copy_CV if gradient_CV is None else gradient_CV.add_(copy_CV)
    loss_C = last.weighted_(logits_CV)
    if total_C is None or gradient_CV is None:
        return loss_C
    logits_CV += gradient_CV
    return total_C + loss_C


def _plan(
    logits_CV: Tensor, target: Target | CellTarget | None, labels_C: Tensor, terms: Sequence[LossTerm]
) -> list[Term]:
    """The kernel takes the cross-entropy, which comes last, together with the divergence before it: one term."""
    pair = terms[-2:]
    joined = len(pair) == 2 and pair[1].divergence is None and has_kernel(logits_CV)
    if joined and pair[0].divergence is not None and isinstance(target, SparseTarget):
        apply_ = partial(
            _divergence_and_cross_entropy_,
            target=target,
            divergence=pair[0].divergence,
            labels_C=labels_C,
            ce_weight=pair[1].weight / pair[0].weight,
        )
        return [*(_term(term, target, labels_C) for term in terms[:-2]), Term(pair[0].weight, apply_)]
    return [_term(term, target, labels_C) for term in terms]


def _term(term: LossTerm, target: Target | CellTarget | None, labels_C: Tensor) -> Term:
    if term.divergence is None:
        return Term(term.weight, partial(cross_entropy_, labels_C=labels_C))
    assert target is not None, f"{term.divergence} compares with a teacher"
    if isinstance(target, DenseTarget):
        return Term(term.weight, partial(_dense_, target=target, divergence=term.divergence))
    if isinstance(target, CellTarget):
        return Term(term.weight, partial(cell_divergence_, target=target, divergence=term.divergence))
    return Term(term.weight, partial(_sparse_, target=target, divergence=term.divergence))


def cross_entropy_(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    """loss_C = −log softmax(logits)[label]: a sampled target whose one id has weight 1 and entropy 0."""
    label = SparseRows(
        ids_NK=labels_C[:, None].int(),
        values_NK=torch.ones(len(labels_C), 1, device=labels_C.device),
        tail_N=torch.zeros(len(labels_C), device=labels_C.device),
        vocab_size=logits_CV.shape[1],
        sampled=True,
    )
    return _by_kernel_or_sweeps_(logits_CV, label, _FORWARD_KL)


def _dense_(logits_CV: Tensor, target: DenseTarget, divergence: Divergence) -> Tensor:
    loss_C, gradient_CV = value_and_gradient(logits_CV, target.log_probs_NV, divergence)
    logits_CV.copy_(gradient_CV)
    return loss_C


def _sparse_(logits_CV: Tensor, target: SparseTarget, divergence: Divergence) -> Tensor:
    check_defined(target, divergence)
    return _by_kernel_or_sweeps_(logits_CV, at_temperature(target, divergence.temperature), divergence)


def _by_kernel_or_sweeps_(logits_CV: Tensor, teacher: SparseRows, divergence: Divergence) -> Tensor:
    if has_kernel(logits_CV):
        return kernels.sparse_divergence_(logits_CV, teacher, divergence)
    return sparse_by_sweeps_(logits_CV, teacher, divergence)


def _divergence_and_cross_entropy_(
    logits_CV: Tensor, target: SparseTarget, divergence: Divergence, labels_C: Tensor, ce_weight: float
) -> Tensor:
    """divergence + ce_weight · cross-entropy in the two sweeps of one kernel."""
    check_defined(target, divergence)
    teacher = at_temperature(target, divergence.temperature)
    return kernels.sparse_divergence_(logits_CV, teacher, divergence, labels_N=labels_C, ce_weight=ce_weight)
