"""Losses on cached sparse targets: against K+1 buckets written out, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from thack.config import LossSettings
from thack.config.specs import divergence_of
from thack.errors import MismatchError, UndefinedLoss
from thack.losses import divergence, forward_kl, jsd, reverse_kl
from thack.targets.types import SampledTarget, TopKTarget

from . import reference

N, V, K = 6, 40, 5
KINDS = ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation"]


def logits(seed: int) -> torch.Tensor:
    return torch.randn(N, V, generator=torch.Generator().manual_seed(seed)) * 2


def top_k(teacher: torch.Tensor, temperatures: tuple[float, ...] = (), tail: bool = True) -> TopKTarget:
    log_p = torch.log_softmax(teacher.double(), 1)
    ids = log_p.topk(K, dim=1).indices.sort(dim=1).values
    outside = log_p.scatter(1, ids, float("-inf"))
    return TopKTarget(
        ids_NK=ids.int(),
        log_probs_NK=log_p.gather(1, ids).float(),
        log_tail_N=outside.logsumexp(1).float() if tail else None,
        vocab_size=V,
        log_tail_at={t: (outside / t).logsumexp(1).float() for t in temperatures},
    )


def sampled() -> SampledTarget:
    target = top_k(logits(1))
    ones = torch.ones(N)
    return SampledTarget(
        ids_NK=target.ids_NK,
        weights_NK=target.log_probs_NK.exp(),
        counts_N=torch.full((N,), K, dtype=torch.int32),
        tau_N=ones * 0.01,
        entropy_N=ones,
        vocab_size=V,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_value_and_gradient_equal_the_buckets_of_the_definition(kind: Any, temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    target = top_k(teacher, (2.0,))
    ours, theirs = student.clone().requires_grad_(), student.double().requires_grad_()
    settings = LossSettings(divergence=kind, beta=0.3, skew=0.2, temperature=temperature)
    loss = divergence(ours, target, divergence_of(settings))
    expected = reference.bucketed(kind, theirs, teacher, target.ids_NK, temperature=temperature, beta=0.3, skew=0.2)
    torch.testing.assert_close(loss.detach(), expected.detach().float(), rtol=2e-5, atol=1e-5)
    loss.sum().backward()
    expected.sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad.float(), rtol=1e-4, atol=1e-5)


def test_the_bucketed_kl_is_a_lower_bound_that_is_never_negative() -> None:
    for seed in range(20):
        student, teacher = logits(seed), logits(seed + 100)
        loss = forward_kl(student, top_k(teacher))
        assert (loss > -1e-6).all()
        assert (loss.double() <= reference.dense("forward_kl", student, teacher) + 1e-5).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_student_equal_to_teacher_is_at_zero_at_any_cached_temperature(temperature: float) -> None:
    z = logits(1).requires_grad_()
    loss = forward_kl(z, top_k(z.detach(), (temperature,)), temperature=temperature)
    loss.sum().backward()
    assert loss.abs().max() < 1e-5
    assert z.grad is not None and z.grad.abs().max() < 1e-5


def test_a_temperature_without_its_tail_is_refused() -> None:
    with pytest.raises(UndefinedLoss, match=r"asked  2[\s\S]*kept   1, 4[\s\S]*temperatures = \[2\]"):
        forward_kl(logits(0), top_k(logits(1), (4.0,)), temperature=2.0)


@pytest.mark.parametrize("loss", [forward_kl, reverse_kl, jsd])
def test_a_truncated_target_without_its_tail_is_refused(loss: Any) -> None:
    with pytest.raises(UndefinedLoss, match="without its tail"):
        loss(logits(0), top_k(logits(1), tail=False))


def test_sampled_targets_know_forward_kl_at_temperature_one_alone() -> None:
    student, target = logits(0), sampled()
    log_q = torch.log_softmax(student.double(), 1).gather(1, target.ids_NK.long())
    expected = -(target.weights_NK.double() * log_q).sum(1) - target.entropy_N  # pitfall 5: minus the entropy
    torch.testing.assert_close(forward_kl(student, target), expected.float(), rtol=1e-5, atol=1e-5)
    with pytest.raises(UndefinedLoss, match="reverse_kl is not defined on sampled targets"):
        reverse_kl(student, target)
    with pytest.raises(UndefinedLoss, match="temperature 2 is not defined on sampled"):
        forward_kl(student, target, temperature=2.0)


def test_a_student_of_another_width_is_refused_with_both() -> None:
    with pytest.raises(MismatchError, match=r"\(6, 39\)[\s\S]*\(6, 40\)"):
        forward_kl(logits(0)[:, :39], top_k(logits(1)))
