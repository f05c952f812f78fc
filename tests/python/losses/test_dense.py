"""Dense divergences against published values, a float64 reference, finite differences and laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.config import LossSettings
from thack.errors import MismatchError, UndefinedLoss
from thack.losses import (
    cross_entropy,
    divergence,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_kl,
    token_losses,
    total_variation,
)
from thack.losses.dense import dense_divergence
from thack.schema.targets import Divergence
from thack.targets.types import DenseTarget

from . import reference

KINDS = ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation"]


def of(kind: str, *, beta: float = 0.5, skew: float = 0.1, temperature: float = 1.0) -> Divergence:
    return Divergence.parse(kind, parameters={"jsd": beta, "skewed_kl": skew}, temperature=temperature)


def target(teacher_logits_NV: torch.Tensor) -> DenseTarget:
    return DenseTarget(log_probs_NV=torch.log_softmax(teacher_logits_NV, dim=-1))


def random_pair(seed: int, shape: tuple[int, int] = (4, 7), scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    return student, torch.randn(shape, generator=generator, dtype=torch.float64) * scale


@pytest.mark.parametrize(
    ("beta", "value"),
    [(0.0, 0.1166225), (0.25, 0.0206557), (0.5, 0.0263677), (0.75, 0.0191150), (1.0, 0.0992728)],
)
def test_pitfall_6_beta_weights_the_teacher(beta: float, value: float) -> None:
    student = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    assert jsd(student, target(teacher), beta=beta).item() == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize(
    ("temperature", "values"),
    [
        (1.0, [0.9773357, 0.0802171, 0.1566863, 0.2030073, 0.0819876, 1.0041627]),
        (2.0, [0.2686145, 0.0237626, 0.0487577, 0.0647885, 0.0245217, 0.2799985]),
    ],
)
def test_reference_values_of_generalised_jsd(temperature: float, values: list[float]) -> None:
    generator = torch.Generator().manual_seed(42)
    student = torch.randn(2, 3, 5, generator=generator)
    teacher = torch.randn(2, 3, 5, generator=generator)
    valid = torch.tensor([[-100, 1, 2], [-100, -100, 3]]) != -100
    for beta, value in zip([0.0, 0.1, 0.25, 0.5, 0.9, 1.0], values, strict=True):
        loss = jsd(student[valid], target(teacher[valid]), beta=beta, temperature=temperature).mean()
        assert loss.item() / temperature**2 == pytest.approx(value, abs=1e-6), beta


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_value_and_gradient_equal_the_definition(kind: str, temperature: float) -> None:
    student, teacher = random_pair(3)
    ours, theirs = student.clone().requires_grad_(), student.clone().requires_grad_()
    loss = dense_divergence(ours, torch.log_softmax(teacher, 1), of(kind, beta=0.3, skew=0.2, temperature=temperature))
    expected = reference.dense(kind, theirs, teacher, beta=0.3, skew=0.2, temperature=temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    weights = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    (loss * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_by_finite_differences(kind: str) -> None:
    student, teacher = random_pair(5, (2, 4))
    log_p = torch.log_softmax(teacher, 1)
    assert torch.autograd.gradcheck(
        lambda z: dense_divergence(z, log_p, of(kind, temperature=1.7)), student.requires_grad_()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_pitfall_3_temperature_scales_loss_and_gradient_together(kind: str) -> None:
    student, teacher = random_pair(7, (3, 6))
    log_p, step = torch.log_softmax(teacher, 1), torch.randn(3, 6, dtype=torch.float64) * 1e-6
    z = student.clone().requires_grad_()
    dense_divergence(z, log_p, of(kind, temperature=2.0)).sum().backward()
    up = dense_divergence(student + step, log_p, of(kind, temperature=2.0)).sum()
    down = dense_divergence(student - step, log_p, of(kind, temperature=2.0)).sum()
    assert z.grad is not None
    assert ((up - down) / (2 * (z.grad * step).sum())).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS[:-1])  # total variation has a kink there
def test_pitfall_5_zero_at_equality(kind: str) -> None:
    student, _ = random_pair(11)
    z = student.clone().requires_grad_()
    loss = dense_divergence(z, torch.log_softmax(student, 1), of(kind, temperature=3.0))
    loss.sum().backward()
    assert loss.abs().max().item() < 1e-12
    assert z.grad is not None and z.grad.abs().max().item() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_pitfall_10_one_entry_of_one_row_moves_that_row_alone(kind: str) -> None:
    student, teacher = random_pair(13)
    moved = student.clone()
    moved[2, 3] += 0.5  # one entry: a whole row would change nothing
    before = dense_divergence(student, torch.log_softmax(teacher, 1), of(kind))
    after = dense_divergence(moved, torch.log_softmax(teacher, 1), of(kind))
    assert torch.equal((before != after).nonzero().flatten(), torch.tensor([2]))


@pytest.mark.parametrize("kind", KINDS)
def test_pitfall_12_ignored_rows_with_nan_give_zero_gradient(kind: str) -> None:
    student, teacher = random_pair(17)
    student[1] = float("nan")
    z = student.clone().requires_grad_()
    valid = torch.tensor([0, 2, 3])
    dense_divergence(z[valid], torch.log_softmax(teacher, 1)[valid], of(kind)).sum().backward()
    assert z.grad is not None and torch.isfinite(z.grad).all()
    assert z.grad[1].abs().max().item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_pitfall_12_outcomes_impossible_for_both_are_harmless(kind: str) -> None:
    student, teacher = random_pair(19)
    student[:, 0] = teacher[:, 0] = float("-inf")
    z = student.clone().requires_grad_()
    loss = dense_divergence(z, torch.log_softmax(teacher, 1), of(kind))
    loss.sum().backward()
    expected = dense_divergence(student[:, 1:], torch.log_softmax(teacher[:, 1:], 1), of(kind))
    torch.testing.assert_close(loss.detach(), expected)
    assert z.grad is not None and torch.isfinite(z.grad).all()


def test_pitfall_6_small_beta_does_not_meet_forward_kl() -> None:
    student, teacher = random_pair(23)
    limit = forward_kl(student, target(teacher)).mean()
    assert (limit / jsd(student, target(teacher), beta=0.01).mean()).item() > 50


def test_the_named_functions_are_the_dispatcher() -> None:
    student, teacher = random_pair(29)
    for kind, loss in [
        ("forward_kl", forward_kl(student, target(teacher))),
        ("reverse_kl", reverse_kl(student, target(teacher))),
        ("jsd", jsd(student, target(teacher), beta=0.5)),
        ("skewed_kl", skewed_kl(student, target(teacher), skew=0.1)),
        ("total_variation", total_variation(student, target(teacher))),
    ]:
        assert torch.equal(loss, divergence(student, target(teacher), of(kind)))


def test_cross_entropy_is_added_with_its_weight() -> None:
    student, teacher = random_pair(31)
    labels = torch.tensor([0, 6, 2, 2])
    loss = token_losses(student, target(teacher), labels, LossSettings(ce_weight=0.25))
    log_q = torch.log_softmax(student, 1)
    expected = forward_kl(student, target(teacher)) - 0.25 * log_q[torch.arange(4), labels]
    torch.testing.assert_close(loss, expected)
    assert cross_entropy(student.bfloat16(), labels).dtype is torch.float32


def test_bfloat16_logits_are_computed_in_float32() -> None:
    student, teacher = random_pair(37)
    z = student.bfloat16().requires_grad_()
    loss = forward_kl(z, target(teacher.float()))
    torch.testing.assert_close(loss, reference.dense("forward_kl", z.detach(), teacher).float(), rtol=1e-5, atol=1e-6)
    loss.sum().backward()
    assert z.grad is not None and z.grad.dtype is torch.bfloat16


def test_refusals_name_the_values() -> None:
    student, teacher = random_pair(41)
    with pytest.raises(UndefinedLoss, match=r"beta must lie in \[0, 1\], got 1.5"):
        jsd(student, target(teacher), beta=1.5)
    with pytest.raises(UndefinedLoss, match="temperature must be finite and above 0, got 0"):
        forward_kl(student, target(teacher), temperature=0.0)
    with pytest.raises(UndefinedLoss, match="unknown divergence 'kl'"):
        dense_divergence(student, teacher, of("kl"))
    with pytest.raises(MismatchError, match=r"\(4, 7\)[\s\S]*\(4, 6\)"):
        forward_kl(student, target(teacher[:, :6]))


logits = st.lists(st.floats(-8, 8), min_size=5, max_size=5)


@settings(max_examples=60, deadline=None)
@given(student=logits, teacher=logits, beta=st.floats(0, 1), shift=st.floats(-50, 50))
def test_laws(student: list[float], teacher: list[float], beta: float, shift: float) -> None:
    z, t = torch.tensor([student], dtype=torch.float64), torch.tensor([teacher], dtype=torch.float64)
    for kind in KINDS:
        log_p = torch.log_softmax(t, 1)
        leaf = z.clone().requires_grad_()
        loss = dense_divergence(leaf, log_p, of(kind, beta=beta))
        assert loss.item() >= -1e-12, kind
        shifted = dense_divergence(z + shift, log_p, of(kind, beta=beta))
        torch.testing.assert_close(loss.detach(), shifted, rtol=1e-8, atol=1e-10)
        loss.sum().backward()
        assert leaf.grad is not None and abs(leaf.grad.sum().item()) < 1e-9, kind  # softmax is shift-invariant
    assert total_variation(z, target(t)).item() <= 1 + 1e-12
    # Pinsker: TV ≤ sqrt(KL / 2), squared, since KL is rounded to an absolute 1e-15 or so, also below 0.
    assert total_variation(z, target(t)).item() ** 2 <= forward_kl(z, target(t)).item() / 2 + 1e-13
