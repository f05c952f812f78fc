"""A target, labels or weights of another batch are refused by name: broadcasting and slices would hide them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from thack.config import LossSettings
from thack.config.training import PolicySettings
from thack.errors import MismatchError
from thack.losses import cross_entropy, divergence, token_losses
from thack.losses.fused import fused_divergence
from thack.losses.policy import Behaviour
from thack.losses.rows import Sides
from thack.schema.targets import Divergence, TargetSpec
from thack.targets import DenseTarget, ProjectedTeacher, Projection, select
from thack.targets.published import ChunkTarget, EqualStrings, MergedTarget, SortedTarget

ROWS, VOCAB, HIDDEN = 4, 6, 5
LABELS = torch.tensor([1, 0, 5, 2])
OTHER_SHAPES = [(1, VOCAB), (2, VOCAB), (7, VOCAB), (ROWS, VOCAB - 1), (ROWS, VOCAB + 1)]
SUMS = {
    "forward KL": LossSettings(),
    "JSD": LossSettings(divergence="jsd"),
    "with cross-entropy": LossSettings(ce_weight=0.5),
    "by confidence": LossSettings(ce_weight=0.5, mix="confidence"),
    "a policy gradient": LossSettings(weight=0.0, policy=PolicySettings(weight=1.0)),
}


def target_of(kind: str, rows: int, vocab: int) -> Any:
    logits = torch.randn(rows, vocab)
    spec = TargetSpec.parse(kind)
    keys = torch.zeros(rows, 4, dtype=torch.int64)
    return select(logits, spec, width=vocab, keys_N4=keys, labels_N=torch.zeros(rows, dtype=torch.int64))


def fused(settings: LossSettings, target: Any, labels_N: Tensor, dtype: torch.dtype, **rest: Any) -> Tensor:
    hidden, head = torch.randn(ROWS, HIDDEN, dtype=dtype), Projection(weight_VH=torch.randn(VOCAB, HIDDEN, dtype=dtype))
    return fused_divergence(hidden, head, target, labels_N, settings, **rest)


@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["dense", "top-k:2", "sampled:2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_target_of_another_batch_is_refused(kind: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    target = target_of(kind, *shape)
    for settings in (s for name, s in SUMS.items() if kind != "sampled:2" or name != "JSD"):
        for chunk in (0, 2):
            with pytest.raises(MismatchError, match="different shapes"):
                fused(settings, target, LABELS, dtype, chunk=chunk)
        with pytest.raises(MismatchError, match="different shapes"):
            token_losses(torch.randn(ROWS, VOCAB, dtype=dtype), target, LABELS, settings)


def test_a_teacher_before_its_head_is_of_the_same_rows() -> None:
    head = Projection(weight_VH=torch.randn(VOCAB, HIDDEN))
    for teacher in (
        ProjectedTeacher(hidden_NH=torch.randn(ROWS + 1, HIDDEN), head=head),
        ProjectedTeacher(hidden_NH=torch.randn(ROWS, HIDDEN), head=head, width=VOCAB - 1),
    ):
        with pytest.raises(MismatchError, match="different shapes"):
            fused(LossSettings(divergence="jsd"), teacher, LABELS, torch.float32)


@pytest.mark.parametrize("shape", OTHER_SHAPES, ids=str)
def test_a_published_target_of_another_batch_is_refused(shape: tuple[int, int]) -> None:
    rows, vocab = shape
    whole = torch.ones(rows, dtype=torch.bool)
    chunks = {"labels_N": torch.zeros(rows, dtype=torch.int64), "chunk_N": torch.arange(rows), "vocab_size": vocab}
    equal = EqualStrings(torch.arange(3), torch.arange(3))
    for target in (
        ChunkTarget(**chunks, is_last_N=whole, log_p_N=-torch.rand(rows), temperature=1.0),  # type: ignore[arg-type]
        SortedTarget(mass_NK=torch.rand(rows, 2), tail_N=torch.zeros(rows), is_paired_N=whole, vocab_size=vocab),
        MergedTarget(**chunks, is_first_N=whole, mass_NV=torch.rand(rows, 8), equal=equal),  # type: ignore[arg-type]
    ):
        with pytest.raises(MismatchError, match="different shapes"):
            divergence(torch.randn(ROWS, VOCAB), target, Divergence())


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_labels_weights_and_behaviour_of_another_batch_are_refused(rows: int) -> None:
    logits, target = torch.randn(ROWS, VOCAB), target_of("dense", ROWS, VOCAB)
    other, settings = torch.zeros(rows, dtype=torch.int64), replace(SUMS["with cross-entropy"])
    losses: tuple[Callable[[], Tensor], ...] = (
        lambda: cross_entropy(logits, other),
        lambda: token_losses(logits, target, other, settings),
        lambda: fused(settings, target, other, torch.float32),
    )
    for apply in losses:
        with pytest.raises(MismatchError, match=r"labels_N has shape .*each of 4 tokens"):
            apply()
    with pytest.raises(MismatchError, match="weights_N has shape"):
        fused(settings, target, LABELS, torch.float32, weights_N=torch.ones(rows))
    for name in ("log_prob_N", "later_N"):
        sides = Sides(behaviour=Behaviour(**{name: -torch.rand(rows)}))
        with pytest.raises(MismatchError, match=f"{name} has shape"):
            token_losses(logits, target, LABELS, SUMS["a policy gradient"], sides)


@pytest.mark.parametrize("label", [-100, -1, VOCAB, 2**32 + 1, -(2**32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_label_that_is_no_id_is_refused_by_every_path(label: int, dtype: torch.dtype) -> None:
    """−100 was a loss of 0 in some number formats, 2³² + 1 the id 1 in others."""
    logits, labels = torch.randn(ROWS, VOCAB, dtype=dtype), torch.tensor([0, label, 1, 2])
    target = target_of("top-k:2", ROWS, VOCAB)
    losses: tuple[Callable[[], Tensor], ...] = (
        lambda: cross_entropy(logits, labels),
        lambda: token_losses(logits, target, labels, SUMS["with cross-entropy"]),
        lambda: fused(SUMS["with cross-entropy"], target, labels, dtype),
    )
    for apply in losses:
        with pytest.raises(MismatchError, match=f"label {label} is outside the vocabulary of 6"):
            apply()


def test_an_empty_batch_has_an_empty_loss() -> None:
    target = DenseTarget(log_probs_NV=torch.zeros(0, VOCAB))
    none = torch.zeros(0, dtype=torch.int64)
    for dtype in (torch.float32, torch.float64):
        logits = torch.zeros(0, VOCAB, dtype=dtype)
        assert cross_entropy(logits, none).shape == (0,)
        assert token_losses(logits, target, none, SUMS["with cross-entropy"]).shape == (0,)
