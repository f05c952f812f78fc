"""One entry for every divergence on every target."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from thack.config import LossSettings
from thack.config.specs import loss_terms
from thack.errors import UndefinedLoss
from thack.losses.alm import alm_divergence
from thack.losses.cells import cell_divergence_
from thack.losses.dense import dense_divergence
from thack.losses.gold import gold_divergence
from thack.losses.rows import Sides, check_batch, cross_entropy_, policy_, sides_of
from thack.losses.shapes import check_labels, check_target
from thack.losses.sparse import rowwise, sparse_divergence
from thack.losses.uld import uld_divergence
from thack.schema.cross_tokenizer import check_across_defined
from thack.schema.targets import Divergence, LossTerm
from thack.targets.cells import CellTarget
from thack.targets.published import ChunkTarget, MergedTarget, PublishedTarget, SortedTarget
from thack.targets.types import DenseTarget, FrozenHeadTarget, Target


def divergence(
    student_logits_NV: Tensor, target: Target | CellTarget | PublishedTarget, divergence: Divergence
) -> Tensor:
    """A divergence between the teacher and the student, per response token.

    Args:
        student_logits_NV: V is the target's vocabulary; float32, bfloat16, float16, or float64.
        target: dense, top-k or sampled; or of cells or a published loss, for a student with another tokenizer.
        divergence: kind, parameter and temperature.

    Returns:
        loss_N in nats times T², differentiable in the logits; float32 at least.

    Raises:
        UndefinedLoss: it is not defined on this kind of target, or at this temperature.
        MismatchError: logits and target have different shapes.

    Example:
        >>> target = DenseTarget(log_probs_NV=torch.tensor([[0.5, 0.5]]).log())
        >>> round(float(divergence(torch.zeros(1, 2), target, Divergence(kind="jsd"))), 6)
        0.0
    """
    if isinstance(target, FrozenHeadTarget):
        raise UndefinedLoss(
            "a projected target is compared with hidden states, not with logits",
            hint="use `loss.fused = auto`, which computes the loss together with the head",
        )
    if isinstance(target, DenseTarget):
        return dense_divergence(student_logits_NV, target.log_probs_NV, divergence)
    if isinstance(target, CellTarget):
        return rowwise(student_logits_NV, partial(cell_divergence_, target=target, divergence=divergence))
    if isinstance(target, PublishedTarget):
        return _published(student_logits_NV, target, divergence)
    return sparse_divergence(student_logits_NV, target, divergence)


def _published(logits_NV: Tensor, target: PublishedTarget, divergence: Divergence) -> Tensor:
    check_target(logits_NV.shape, target)
    wide_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    if isinstance(target, MergedTarget):
        check_across_defined("gold", divergence)
        return gold_divergence(wide_NV, target, divergence)
    if isinstance(target, ChunkTarget):
        check_across_defined("alm", divergence)
        return alm_divergence(wide_NV, target)
    assert isinstance(target, SortedTarget)
    check_across_defined("uld", divergence)
    return uld_divergence(wide_NV, target)


def token_losses(
    student_logits_NV: Tensor,
    target: Target | CellTarget | PublishedTarget | None,
    labels_N: Tensor,
    settings: LossSettings,
    sides: Sides | None = None,
) -> Tensor:
    """The loss of each response token: weight · divergence + Σ add + policy + ce_weight · (−log q(label)).

    Args:
        student_logits_NV: as of `divergence`.
        target: None where the cross-entropy is the only term.
        labels_N: int64, the response tokens; their cross-entropy is at temperature 1.
        settings: the terms and their weights.
        sides: what is known of the tokens' writer, and where sums are left; None: the student wrote them as it is.

    Returns:
        loss_N in nats (times T² of each divergence), differentiable in the logits.

    Raises:
        UndefinedLoss: a divergence is not defined on this kind of target, or the sum has no term.
        MismatchError: logits, target and labels have different shapes; a label is outside the vocabulary.

    Example:
        >>> settings = LossSettings(weight=0.0, ce_weight=1.0)
        >>> round(float(token_losses(torch.zeros(1, 2), None, torch.tensor([1]), settings)), 4)
        0.6931
    """
    sides = sides or sides_of(settings)
    check_batch(student_logits_NV.shape, target, labels_N, sides)
    hard_N = sides.hard_share(target, labels_N)
    total_N: Tensor | None = None
    for term in loss_terms(settings):
        loss_N = _term(student_logits_NV, target, labels_N, term, sides)
        loss_N = loss_N if term.weight == 1 else term.weight * loss_N
        if hard_N is not None:
            loss_N = loss_N * (hard_N if term.is_cross_entropy else 1 - hard_N)
        total_N = loss_N if total_N is None else total_N + loss_N
    assert total_N is not None
    return total_N


def _term(
    logits_NV: Tensor,
    target: Target | CellTarget | PublishedTarget | None,
    labels_N: Tensor,
    term: LossTerm,
    sides: Sides,
) -> Tensor:
    if term.is_cross_entropy:
        return cross_entropy(logits_NV, labels_N)
    assert target is not None, f"{term} compares with a teacher"
    if term.divergence is not None:
        return divergence(logits_NV, target, term.divergence)
    assert term.policy is not None and not isinstance(target, CellTarget | PublishedTarget), "checked before a run"
    apply_ = partial(policy_, target=target, labels_C=labels_N, policy=term.policy, sides=sides)
    return rowwise(logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)), apply_)


def cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """−log softmax(logits)[label] per row; on the CPU by the row kernel.

    Args:
        logits_NV: any floating-point format.
        labels_N: int64, in [0, V).

    Returns:
        loss_N in nats, differentiable in the logits; float32 at least.

    Raises:
        MismatchError: there are other labels than rows; or one is outside the vocabulary.

    Example:
        >>> round(float(cross_entropy(torch.zeros(1, 4), torch.tensor([2]))), 4)
        1.3863
    """
    check_labels(logits_NV.shape, labels_N)
    if logits_NV.device.type == "cpu" and logits_NV.dtype in (torch.float32, torch.bfloat16) and len(labels_N):
        return rowwise(logits_NV, partial(cross_entropy_, labels_C=labels_N))
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return -torch.log_softmax(logits_NV.to(dtype), dim=1).gather(1, labels_N[:, None])[:, 0]


def forward_kl(student_logits_NV: Tensor, target: Target, *, temperature: float = 1.0) -> Tensor:
    """Forward KL: T² · KL(teacher ‖ student) per response token.

    Args:
        student_logits_NV: as of `divergence`, and so is `target`.
        temperature: T > 0, of both distributions.

    Returns:
        loss_N in nats times T², differentiable in the logits.

    Raises:
        UndefinedLoss, MismatchError: as `divergence`.

    Example:
        >>> target = DenseTarget(log_probs_NV=torch.tensor([[0.75, 0.25]]).log())
        >>> round(float(forward_kl(torch.zeros(1, 2), target)), 4)
        0.1308
    """
    return divergence(student_logits_NV, target, Divergence(kind="forward_kl", temperature=temperature))


def reverse_kl(student_logits_NV: Tensor, target: Target, *, temperature: float = 1.0) -> Tensor:
    """Reverse KL: T² · KL(student ‖ teacher) per response token. On a top-k target of K+1 outcomes: a lower bound.

    Args:
        student_logits_NV: as of `divergence`, and so is `target`.
        temperature: T > 0, of both distributions.

    Returns:
        loss_N in nats times T², differentiable in the logits.

    Raises:
        UndefinedLoss, MismatchError: as `divergence`.

    Example:
        >>> target = DenseTarget(log_probs_NV=torch.tensor([[0.75, 0.25]]).log())
        >>> round(float(reverse_kl(torch.zeros(1, 2), target)), 4)
        0.1438
    """
    return divergence(student_logits_NV, target, Divergence(kind="reverse_kl", temperature=temperature))


def jsd(student_logits_NV: Tensor, target: Target, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon: T² · [β KL(teacher ‖ M) + (1−β) KL(student ‖ M)], M = β·teacher + (1−β)·student.

    Args:
        student_logits_NV: as of `divergence`, and so is `target`.
        temperature: T > 0, of both distributions.
        beta: β in [0, 1]: 0 is forward KL and 1 reverse KL; close to either, the scale falls with β (12× at .1).

    Returns:
        loss_N in nats times T², differentiable in the logits.

    Raises:
        UndefinedLoss, MismatchError: as `divergence`.

    Example:
        >>> target = DenseTarget(log_probs_NV=torch.tensor([[0.75, 0.25]]).log())
        >>> round(float(jsd(torch.zeros(1, 2), target)), 4)
        0.0338
    """
    return divergence(student_logits_NV, target, Divergence(kind="jsd", parameter=beta, temperature=temperature))


def skewed_kl(student_logits_NV: Tensor, target: Target, *, skew: float = 0.1, temperature: float = 1.0) -> Tensor:
    """Skewed KL: T² · KL(teacher ‖ skew·teacher + (1−skew)·student) per response token (DistiLLM).

    Args:
        student_logits_NV: as of `divergence`, and so is `target`.
        temperature: T > 0, of both distributions.
        skew: in [0, 1); 0 is forward KL.

    Returns:
        loss_N in nats times T², differentiable in the logits.

    Raises:
        UndefinedLoss, MismatchError: as `divergence`.

    Example:
        >>> target = DenseTarget(log_probs_NV=torch.tensor([[0.75, 0.25]]).log())
        >>> round(float(skewed_kl(torch.zeros(1, 2), target)), 4)
        0.107
    """
    return divergence(student_logits_NV, target, Divergence(kind="skewed_kl", parameter=skew, temperature=temperature))


def total_variation(student_logits_NV: Tensor, target: Target, *, temperature: float = 1.0) -> Tensor:
    """Total variation: T² · ½ Σ_v |teacher_v − student_v| per response token.

    Args:
        student_logits_NV: as of `divergence`, and so is `target`.
        temperature: T > 0, of both distributions.

    Returns:
        loss_N in nats times T², differentiable in the logits.

    Raises:
        UndefinedLoss, MismatchError: as `divergence`.

    Example:
        >>> target = DenseTarget(log_probs_NV=torch.tensor([[0.75, 0.25]]).log())
        >>> round(float(total_variation(torch.zeros(1, 2), target)), 4)
        0.25
    """
    return divergence(student_logits_NV, target, Divergence(kind="total_variation", temperature=temperature))
