"""Probabilities at and below the smallest float: every divergence of finite rows is finite and is its definition's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thack.errors import UndefinedLoss
from thack.evaluation.divergences import three_divergences
from thack.kernels import SparseRows
from thack.losses.dense import dense_divergence, value_and_gradient
from thack.losses.sweeps import sparse_by_sweeps_
from thack.schema.targets import Divergence, DivergenceKind

MIXTURES: list[tuple[DivergenceKind, float]] = [
    ("jsd", 0.1),
    ("jsd", 0.5),
    ("jsd", 0.9),
    ("skewed_kl", 0.0),
    ("skewed_kl", 0.01),
    ("skewed_kl", 0.9),
]


def by_logaddexp(kind: str, share: float, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ_v f of each row in float64, the mixture in log space."""
    p, q = log_p.exp(), log_q.exp()
    log_share = math.log(share) if share else -math.inf
    log_m = torch.logaddexp(log_p + log_share, log_q + math.log1p(-share))
    if kind == "skewed_kl":
        return (p * (log_p - log_m)).sum(1)
    return (share * p * (log_p - log_m) + (1 - share) * q * (log_q - log_m)).sum(1)


def rows(kind: str) -> tuple[Tensor, Tensor]:
    """(student, teacher) logits, float32, whose probabilities go below the smallest float."""
    generator = torch.Generator().manual_seed(3)
    if kind == "one id":  # both far down, at every depth around the smallest float
        depth = torch.arange(80, 120, 0.05)
        student, teacher = torch.meshgrid(depth[::7], depth[::7], indexing="ij")
        pairs = torch.stack([student.flatten(), teacher.flatten()])
        zero = torch.zeros_like(pairs)
        both = torch.stack([zero, -pairs, zero - 1], dim=2)
        return both[0], both[1]
    scale = 24.0 if kind == "24" else 12.0
    student, teacher = (torch.randn(16, 3000, generator=generator) * scale for _ in range(2))
    return student, teacher


@pytest.mark.parametrize("shape", ["one id", "12", "24"])
@pytest.mark.parametrize("kind,share", MIXTURES)
def test_mixtures_are_those_of_log_space(kind: DivergenceKind, share: float, shape: str) -> None:
    student, teacher = rows(shape)
    log_p = torch.log_softmax(teacher, dim=1)
    wide = student.double().requires_grad_()
    expected = by_logaddexp(kind, share, log_p.double(), torch.log_softmax(wide, dim=1))
    expected.sum().backward()
    assert wide.grad is not None
    divergence = Divergence(kind=kind, parameter=share)

    loss, gradient = value_and_gradient(student, log_p, divergence)

    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(gradient.double(), wide.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind,share", MIXTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sweeps_over_kept_ids_are_those_of_log_space(kind: DivergenceKind, share: float, dtype: torch.dtype) -> None:
    student, teacher = rows("one id")
    log_p = torch.log_softmax(teacher, dim=1)
    ids = torch.tensor([[0, 1]]).int().expand(len(log_p), 2)
    log_q = torch.log_softmax(student.double(), dim=1)
    expected = by_logaddexp(kind, share, log_p.double(), log_q)
    held = SparseRows(ids, log_p[:, :2], log_p[:, 2], 3)
    logits = student.to(dtype)

    loss = sparse_by_sweeps_(logits, held, Divergence(kind=kind, parameter=share))

    torch.testing.assert_close(loss.double(), expected, rtol=2e-5, atol=2e-6)
    assert torch.isfinite(logits).all()


def test_a_row_that_underflows_leaves_the_bits_of_the_others() -> None:
    student, teacher = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0))
    deep = torch.full((1, 50), -1.0)
    deep[0, 0], deep[0, 1] = 0.0, -103.5
    for kind, share in MIXTURES:
        divergence = Divergence(kind=kind, parameter=share)
        alone = value_and_gradient(student, torch.log_softmax(teacher, 1), divergence)
        both = value_and_gradient(
            torch.cat([student, deep]), torch.log_softmax(torch.cat([teacher, deep]), 1), divergence
        )
        assert torch.equal(alone[0], both[0][:4]) and torch.equal(alone[1], both[1][:4])


@pytest.mark.parametrize("shape", ["one id", "12", "24"])
def test_the_metric_is_that_of_log_space(shape: str) -> None:
    student, teacher = (torch.log_softmax(logits, dim=1) for logits in rows(shape))
    nats = three_divergences(teacher, student)
    expected = by_logaddexp("jsd", 0.5, teacher.double(), student.double())
    torch.testing.assert_close(nats[:, 2].double(), expected, rtol=2e-5, atol=2e-6)


def test_a_teacher_without_mass_refuses_reverse_kl_by_name() -> None:
    teacher = torch.log_softmax(torch.tensor([[1.0, 0.0, -2.0], [1.0, 0.0, -math.inf]]), dim=1)
    student = torch.tensor([[1.0, 0.0, -2.0]]).expand(2, 3)
    with pytest.raises(UndefinedLoss, match="row 1: reverse KL is infinite"):
        dense_divergence(student, teacher, Divergence(kind="reverse_kl"))
    for kind in ("forward_kl", "jsd", "skewed_kl", "total_variation"):
        loss = dense_divergence(student, teacher, Divergence(kind=kind))
        assert torch.isfinite(loss).all()
