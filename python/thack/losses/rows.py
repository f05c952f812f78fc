"""Rows of student logits in, losses out, and each row replaced by its gradient: what the fused head works with.

C tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from thack import kernels
from thack.config import LossSettings
from thack.config.training import MixKind
from thack.kernels import SparseRows
from thack.losses.cells import cell_divergence_
from thack.losses.dense import value_and_gradient
from thack.losses.frozen_head import log_sum_exp_
from thack.losses.mix import hard_share
from thack.losses.policy import ON_POLICY, Behaviour, count, floored, policy_loss
from thack.losses.shapes import check_labels, check_rows, check_target
from thack.losses.sparse import at_temperature, check_defined, has_kernel
from thack.losses.sweeps import sparse_by_sweeps_
from thack.losses.tally import Tally
from thack.schema.policy import PolicyGradient
from thack.schema.targets import Divergence, LossTerm
from thack.targets.cells import CellTarget
from thack.targets.projected import ProjectedTeacher
from thack.targets.published import PublishedTarget
from thack.targets.realised import realised_log_probs
from thack.targets.types import DenseTarget, FrozenHeadTarget, SparseTarget, Target

_FORWARD_KL = Divergence()


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a weighted sum. `apply_` returns its loss_C and overwrites the rows with the gradient of that."""

    weight: float
    apply_: Callable[[Tensor], Tensor]
    share_C: Tensor | None = None  # a further weight of each token

    def weighted_(self, rows_CV: Tensor) -> Tensor:
        loss_C = self.weight * self.apply_(rows_CV)
        if self.weight != 1:
            rows_CV *= self.weight
        if self.share_C is None:
            return loss_C
        rows_CV *= self.share_C[:, None].to(rows_CV.dtype)
        return loss_C * self.share_C


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """What a loss needs of its tokens beside target and label.

    Args:
        behaviour: of their writer, for a policy gradient.
        tally: where it leaves its sums.
        mix: how hard and soft terms are weighted by position, and the order of the entropy.
    """

    behaviour: Behaviour = ON_POLICY
    tally: Tally = field(default_factory=Tally)
    mix: MixKind = "sum"
    entropy_order: float = 1.0

    def rows(self, rows: slice) -> Sides:
        """Those of these response tokens."""
        return replace(self, behaviour=self.behaviour.rows(rows))

    def hard_share(self, target: Target | CellTarget | PublishedTarget | None, labels_C: Tensor) -> Tensor | None:
        """h of each token; None where hard and soft terms are added up."""
        if self.mix not in ("confidence", "entropy"):
            return None
        assert target is not None and not isinstance(target, CellTarget | PublishedTarget), "checked before a run"
        found = hard_share(self.mix, target, labels_C, self.entropy_order)
        found.count(self.tally)
        return found.share_N


def sides_of(settings: LossSettings) -> Sides:
    """Those of tokens that the student wrote as it is."""
    return Sides(mix=settings.mix, entropy_order=settings.entropy_order)


def check_batch(
    shape: Sequence[int],
    target: Target | CellTarget | PublishedTarget | ProjectedTeacher | None,
    labels_N: Tensor,
    sides: Sides,
) -> None:
    """Raise MismatchError unless target, labels and sides are of the rows and ids of logits of this shape, [N, V]."""
    check_target(shape, target)
    check_labels(shape, labels_N)
    check_rows(shape[0], log_prob_N=sides.behaviour.log_prob_N, later_N=sides.behaviour.later_N)


def replace_by_gradient(
    logits_CV: Tensor,
    target: Target | CellTarget | None,
    labels_C: Tensor,
    terms: Sequence[LossTerm],
    sides: Sides | None = None,
) -> Tensor:
    """loss_C, the weighted sum of `terms`, with logits_CV overwritten by its gradient, row by row.

    Args:
        logits_CV: the student's; contiguous rows of float32, bfloat16, float16 or float64.
        target: None where the cross-entropy is the only term.
        labels_C: int64, for the cross-entropy.
        terms: at least one, of weights other than 0 (`config.specs.loss_terms`).
        sides: of the same tokens.

    Returns:
        float32 at least; nats, times T².

    Raises:
        UndefinedLoss: a divergence is not defined on this target.
    """
    *first, last = _plan(logits_CV, target, labels_C, terms, sides or Sides())
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
    logits_CV: Tensor,
    target: Target | CellTarget | None,
    labels_C: Tensor,
    terms: Sequence[LossTerm],
    sides: Sides,
) -> list[Term]:
    """The kernel takes the cross-entropy, which comes last, together with the divergence before it: one term."""
    pair, hard_C = terms[-2:], sides.hard_share(target, labels_C)
    joined = hard_C is None and len(pair) == 2 and pair[1].is_cross_entropy and has_kernel(logits_CV)
    if joined and pair[0].divergence is not None and isinstance(target, SparseTarget):
        apply_ = partial(
            _divergence_and_cross_entropy_,
            target=target,
            divergence=pair[0].divergence,
            labels_C=labels_C,
            ce_weight=pair[1].weight / pair[0].weight,
        )
        return [*(_term(term, target, labels_C, sides) for term in terms[:-2]), Term(pair[0].weight, apply_)]
    found = [_term(term, target, labels_C, sides) for term in terms]
    if hard_C is None:
        return found
    shares = [hard_C if term.is_cross_entropy else 1 - hard_C for term in terms]
    return [replace(term, share_C=share_C) for term, share_C in zip(found, shares, strict=True)]


def _term(term: LossTerm, target: Target | CellTarget | None, labels_C: Tensor, sides: Sides) -> Term:
    if term.is_cross_entropy:
        return Term(term.weight, partial(cross_entropy_, labels_C=labels_C))
    assert target is not None, f"{term} compares with a teacher"
    if term.policy is not None:
        assert not isinstance(target, CellTarget), "checked before a run"
        apply_ = partial(policy_, target=target, labels_C=labels_C, policy=term.policy, sides=sides)
        return Term(term.weight, apply_)
    assert term.divergence is not None
    if isinstance(target, FrozenHeadTarget):
        return Term(term.weight, log_sum_exp_)  # the part that is linear in the hidden states: `losses.fused`
    if isinstance(target, DenseTarget):
        return Term(term.weight, partial(_dense_, target=target, divergence=term.divergence))
    if isinstance(target, CellTarget):
        return Term(term.weight, partial(cell_divergence_, target=target, divergence=term.divergence))
    return Term(term.weight, partial(_sparse_, target=target, divergence=term.divergence))


def policy_(logits_CV: Tensor, target: Target, labels_C: Tensor, policy: PolicyGradient, sides: Sides) -> Tensor:
    """loss_C of a policy gradient. The cross-entropy leaves q − 1(y) in the rows; its slope by log q is −1."""
    log_p_C = realised_log_probs(target, labels_C)
    log_q_C = -cross_entropy_(logits_CV, labels_C)
    found = policy_loss(policy, log_q_C, floored(log_p_C), sides.behaviour)
    count(found, log_p_C, sides.tally)
    logits_CV *= -found.slope_N[:, None].to(logits_CV.dtype)
    return found.value_N


def cross_entropy_(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    """loss_C = −log softmax(logits)[label]: a sampled target whose one id has weight 1 and entropy 0."""
    label = SparseRows(
        ids_NK=labels_C[:, None],
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
