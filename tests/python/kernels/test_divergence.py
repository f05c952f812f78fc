"""The sparse divergences against float64 autograd of their definition, and their refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thack import kernels
from thack.config.settings import Divergence
from thack.errors import MismatchError, ModelError, UndefinedLoss
from thack.targets import SampledTarget, TopKTarget

KINDS: list[Divergence] = ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation"]


def target_of(z: torch.Tensor, k: int) -> TopKTarget:
    top = kernels.topk_logsumexp(z, k, temperatures=(2.0,))
    return TopKTarget(
        ids_NK=top.ids_NK,
        log_probs_NK=top.log_probs_NK,
        log_tail_N=top.log_tail_N,
        vocab_size=z.shape[1],
        log_tail_at=top.log_tail_at,
    )


def definition(kind: str, p: torch.Tensor, q: torch.Tensor, beta: float, skew: float) -> torch.Tensor:
    """Per row, from K+1 probabilities in float64."""

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum(1)

    if kind == "forward_kl":
        return kl(p, q)
    if kind == "reverse_kl":
        return kl(q, p)
    if kind == "total_variation":
        return 0.5 * (p - q).abs().sum(1)
    if kind == "skewed_kl":
        return kl(p, skew * p + (1 - skew) * q)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def reference(
    kind: str, teacher: torch.Tensor, student: torch.Tensor, ids: torch.Tensor, temperature: float, beta: float
) -> torch.Tensor:
    def buckets(z: torch.Tensor) -> torch.Tensor:
        full = torch.softmax(z.double() / temperature, 1)
        head = full.gather(1, ids.long())
        others = full.scatter(1, ids.long(), 0.0).sum(1, keepdim=True)
        return torch.cat([head, others], 1)

    return temperature**2 * definition(kind, buckets(teacher), buckets(student), beta, 0.1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(41, 300), st.integers(0, 1000))
def test_value_and_gradient_match_float64(kind: Divergence, temperature: float, k: int, vocab: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(3, vocab, generator=generator) * 3
    student = (torch.randn(3, vocab, generator=generator) * 2).requires_grad_()
    upstream = torch.rand(3, generator=generator)
    target = target_of(teacher, k)
    loss = kernels.sparse_divergence(student, target, kind=kind, beta=0.3, temperature=temperature)
    (loss * upstream).sum().backward()
    double = student.detach().double().requires_grad_()
    expected = reference(kind, teacher, double, target.ids_NK, temperature, 0.3)
    (expected * upstream).sum().backward()
    assert student.grad is not None
    assert double.grad is not None
    torch.testing.assert_close(loss.double(), expected, atol=3e-6, rtol=3e-6)
    torch.testing.assert_close(student.grad.double(), double.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_at_equality_with_zero_gradient(kind: Divergence) -> None:
    """Traps 4 and 5, at T = 1 and T = 2."""
    z = torch.randn(4, 100, generator=torch.Generator().manual_seed(0)) * 3
    for temperature in (1.0, 2.0):
        student = z.clone().requires_grad_()
        loss = kernels.sparse_divergence(student, target_of(z, 8), kind=kind, temperature=temperature)
        loss.sum().backward()
        assert student.grad is not None
        assert loss.abs().max() < 3e-6
        assert student.grad.abs().max() < (2e-6 if kind != "total_variation" else 1.0)


def test_an_extreme_tail_stays_finite() -> None:
    """A student tail of e^−60 and a teacher tail of e^−32."""
    student = torch.full((1, 50), -60.0)
    student[0, :2] = 0.0
    target = TopKTarget(
        ids_NK=torch.tensor([[0, 1]], dtype=torch.int32),
        log_probs_NK=torch.full((1, 2), math.log(0.5)),
        log_tail_N=torch.tensor([-32.0]),
        vocab_size=50,
    )
    for kind in KINDS:
        student.grad = None
        student.requires_grad_()
        loss = kernels.sparse_divergence(student, target, kind=kind)
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()


def test_sampled_targets_give_the_unbiased_kl() -> None:
    n, vocab = 4000, 60
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(vocab, generator=generator) * 2, torch.randn(vocab, generator=generator)
    keys = torch.zeros(n, 4, dtype=torch.int64)
    keys[:, 1] = torch.arange(n)
    target = kernels.threshold_sample(teacher.expand(n, vocab).contiguous(), 6, seed=1, keys_N4=keys)
    rows = student.expand(n, vocab).contiguous().requires_grad_()
    loss = kernels.sparse_divergence(rows, target)
    loss.sum().backward()
    p, q = torch.softmax(teacher.double(), 0), torch.softmax(student.double(), 0)
    exact = (p * (p.log() - q.log())).sum()
    assert abs(loss.double().mean() - exact) < 5 * loss.double().std() / n**0.5
    assert rows.grad is not None
    error = (p * target.tau_N[0].double() / n).sqrt()  # an id of weight τ is drawn with probability p/τ
    assert ((rows.grad.double().mean(0) - (q - p)).abs() <= 5 * error + 1e-6).all()


def test_half_precision_logits() -> None:
    z = torch.randn(4, 90, generator=torch.Generator().manual_seed(0))
    student = torch.randn(4, 90, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    loss = kernels.sparse_divergence(student, target_of(z, 8))
    loss.sum().backward()
    expected = reference("forward_kl", z, student.detach().float(), target_of(z, 8).ids_NK, 1.0, 0.5)
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16


def test_what_is_not_defined_is_refused() -> None:
    z = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    target = target_of(z, 4)
    with pytest.raises(UndefinedLoss, match="T = 3"):
        kernels.sparse_divergence(z, target, temperature=3.0)
    keys = torch.zeros(2, 4, dtype=torch.int64)
    sampled: SampledTarget = kernels.threshold_sample(z, 4, seed=0, keys_N4=keys)
    with pytest.raises(UndefinedLoss, match="sampled"):
        kernels.sparse_divergence(z, sampled, kind="reverse_kl")


def test_ids_beyond_the_vocabulary_and_nan_rows_are_named() -> None:
    """Trap 14: an id is checked before it is used."""
    z = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    target = target_of(z, 4)
    target.ids_NK[1, 3] = 30
    with pytest.raises(MismatchError, match="row 1"):
        kernels.sparse_divergence(z, target)
    bad = z.clone()
    bad[0, 7] = float("nan")
    with pytest.raises(ModelError, match="row 0"):
        kernels.sparse_divergence(bad, target_of(z, 4))
