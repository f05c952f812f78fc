"""Hard and soft targets by position, against their definitions in float64."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thack.checks.losses import check_mix, check_mix_defined
from thack.config import LossSettings
from thack.errors import UndefinedLoss, UsageError
from thack.losses import token_losses
from thack.losses.fused import fused_divergence
from thack.losses.mix import columns, curriculum, hard_share
from thack.losses.rows import sides_of
from thack.schema.defined import check_defined
from thack.schema.targets import Divergence, TargetSpec
from thack.targets.entropy import entropy_bounds, most_entropy
from thack.targets.projected import Projection
from thack.targets.select import select
from thack.targets.types import DenseTarget

N, V = 40, 30


def world(size: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    teacher, student = (size * torch.randn(N, V, generator=generator).double() for _ in range(2))
    return teacher, student, torch.randint(0, V, (N,), generator=generator)


def entropy(p_NV: Tensor, order: float) -> Tensor:
    """From the definition."""
    return -(p_NV * p_NV.log()).sum(1) if order == 1 else ((p_NV**order).sum(1) - 1) / (1 - order)


@pytest.mark.parametrize("order", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("kind", ["confidence", "entropy"])
def test_the_loss_is_the_weighted_sum_of_its_definition(kind: Any, order: float) -> None:
    """Value and gradient by the logits, which does not go through the weights."""
    teacher, student, labels = world()
    student.requires_grad_()
    p_NV, log_q_NV = teacher.softmax(1), student.log_softmax(1)
    even = torch.full((1, V), 1 / V, dtype=torch.float64)
    h_N = {
        "confidence": p_NV.gather(1, labels[:, None])[:, 0],
        "entropy": 1 - entropy(p_NV, order) / entropy(even, order),
    }[kind]
    soft_N, hard_N = (p_NV * (p_NV.log() - log_q_NV)).sum(1), -log_q_NV.gather(1, labels[:, None])[:, 0]
    wanted_N = 0.7 * (1 - h_N) * soft_N + 0.4 * h_N * hard_N
    (wanted_gradient,) = torch.autograd.grad(wanted_N.sum(), student, retain_graph=True)
    settings = LossSettings(mix=kind, entropy_order=order if kind == "entropy" else 1.0, weight=0.7, ce_weight=0.4)
    target = DenseTarget(log_probs_NV=teacher.log_softmax(1))
    loss_N = token_losses(student, target, labels, settings)
    (gradient,) = torch.autograd.grad(loss_N.sum(), student)
    torch.testing.assert_close(loss_N, wanted_N, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("word", ["dense", "top-k:6", "sampled:6"])
@pytest.mark.parametrize("kind", ["confidence", "entropy"])
def test_fused_with_the_head_it_is_the_same(kind: Any, word: str) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(N, 8, generator=generator), torch.randn(V, 8, generator=generator)
    teacher, _, labels = world()
    spec = TargetSpec.parse(word)
    keys_N4 = torch.arange(4 * N).view(N, 4)
    target = select(teacher.float(), spec, width=V, keys_N4=keys_N4, labels_N=labels)
    settings, found = LossSettings(mix=kind, ce_weight=0.5), []
    for fused in (True, False):
        x, w, sides = hidden.clone().requires_grad_(), weight.clone().requires_grad_(), sides_of(settings)
        if fused:
            head = Projection(weight_VH=w)
            total = fused_divergence(x, head, target, labels, settings, chunk=16, sides=sides)
        else:
            total = token_losses(x @ w.t(), target, labels, settings, sides).sum()
        total.backward()  # type: ignore[no-untyped-call,unused-ignore]
        assert x.grad is not None and w.grad is not None
        found.append((total.detach(), x.grad, w.grad, columns(sides.tally.take())))
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert found[0][3] == pytest.approx(found[1][3], rel=1e-5)


@pytest.mark.parametrize("size", [0.3, 2.0, 8.0])
@pytest.mark.parametrize("k", [1, 4, 29])
def test_a_top_k_record_bounds_the_entropy_and_says_how_far_it_may_be_off(size: float, k: int) -> None:
    teacher, _, labels = world(size)
    target = select(teacher.float(), TargetSpec(kind="top-k", k=k), width=V)
    true_N = entropy(teacher.softmax(1), 1.0)
    low_N, high_N = entropy_bounds(target)
    assert bool((low_N <= true_N + 1e-5).all()) and bool((true_N <= high_N + 1e-5).all())
    if k == 29:  # one id is left: nothing is unknown
        torch.testing.assert_close(low_N, high_N, rtol=0, atol=1e-5)
    found = hard_share("entropy", target, labels)
    off_N = (found.share_N - (1 - true_N / math.log(V))).abs()
    assert bool((off_N <= found.unsure_N + 1e-5).all())


def test_other_records_know_what_they_say_they_know() -> None:
    teacher, _, _ = world()
    true_N = entropy(teacher.softmax(1), 0.5)
    kept = select(teacher.float(), TargetSpec(kind="top-k", k=4, temperatures=(2.0,)), width=V)
    for bound_N in entropy_bounds(kept, 0.5):
        torch.testing.assert_close(bound_N.double(), true_N, rtol=1e-4, atol=1e-4)
    with pytest.raises(UndefinedLoss, match="needs the tail at temperature 10"):
        entropy_bounds(kept, 0.1)
    drawn = select(teacher.float(), TargetSpec(kind="sampled", k=4), width=V, keys_N4=torch.zeros(N, 4).long())
    torch.testing.assert_close(
        entropy_bounds(drawn)[0].double(), entropy(teacher.softmax(1), 1.0), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(UndefinedLoss, match="not known of sampled targets"):
        entropy_bounds(drawn, 0.5)


@pytest.mark.parametrize("order", [1.0, 0.999, 0.5, 0.1])
def test_weights_are_between_0_and_1_at_the_ends(order: float) -> None:
    even = DenseTarget(log_probs_NV=torch.zeros(1, V).log_softmax(1))
    sure = DenseTarget(log_probs_NV=torch.full((1, V), -math.inf).index_fill(1, torch.tensor([3]), 0.0))
    label = torch.tensor([3])
    assert float(hard_share("entropy", even, label, order).share_N) == pytest.approx(0, abs=1e-4)
    assert float(hard_share("entropy", sure, label, order).share_N) == pytest.approx(1, abs=1e-4)
    assert most_entropy(V, 0.999) == pytest.approx(math.log(V), rel=5e-3)


def test_a_curriculum_goes_from_hard_to_soft() -> None:
    assert [curriculum(step, 10, 1.0) for step in (0, 5, 10)] == [0, 0.5, 1]
    assert [curriculum(step, 10, 0.2) for step in (0, 1, 2, 9)] == [0, 0.5, 1, 1]


@settings(deadline=None, max_examples=50)
@given(st.one_of(st.floats(0.02, 0.99), st.integers(1, 19).map(lambda twentieths: twentieths / 20)))
def test_the_temperature_that_a_refusal_names_is_the_one_that_is_needed(order: float) -> None:
    """Whoever types it has the cache; for a loss at that temperature too."""
    loss, divergence = LossSettings(mix="entropy", ce_weight=1, entropy_order=order), Divergence(temperature=1 / order)
    target: Any = select(torch.zeros(1, V), TargetSpec(kind="top-k", k=4), width=V)
    for refused in (
        lambda spec: check_mix_defined(loss, spec),
        lambda spec: check_defined(spec, divergence),
        lambda spec: entropy_bounds(
            replace(target, log_tail_at=dict.fromkeys(spec.temperatures, torch.zeros(1))), order
        ),
    ):
        with pytest.raises(UndefinedLoss) as found:
            refused(TargetSpec(kind="top-k", k=4))
        typed = re.search(r"temperatures = \[(.*)\]", str(found.value.hint))
        assert typed
        refused(TargetSpec(kind="top-k", k=4, temperatures=(float(typed[1]),)))


def test_what_has_nothing_to_weigh_or_no_entropy_is_refused() -> None:
    for loss in (LossSettings(mix="entropy"), LossSettings(mix="confidence", ce_weight=1, weight=0)):
        with pytest.raises(UsageError, match="one of them has no weight"):
            check_mix(loss)
    with pytest.raises(UsageError, match=r"loss\.entropy_order belongs to loss\.mix = entropy"):
        check_mix(LossSettings(entropy_order=0.5))
    order = LossSettings(mix="entropy", ce_weight=1, entropy_order=0.1)
    check_mix_defined(order, TargetSpec())
    check_mix_defined(order, TargetSpec(kind="top-k", k=4, temperatures=(10.0,)))
    for spec in (TargetSpec(kind="sampled", k=4), TargetSpec(kind="top-k", k=4)):
        with pytest.raises(UndefinedLoss, match="do not know the entropy of that order"):
            check_mix_defined(order, spec)
    with pytest.raises(UndefinedLoss, match="without their own tail"):
        check_mix_defined(LossSettings(mix="entropy", ce_weight=1), TargetSpec(kind="top-k", k=4, tail="none"))
