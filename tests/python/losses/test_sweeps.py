"""The sparse divergences of any device, on the CPU: the same values and gradients as the Rust kernel."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from thack import kernels
from thack.errors import UndefinedLoss
from thack.kernels import SparseRows
from thack.losses import divergence
from thack.losses.sweeps import sparse_by_sweeps_
from thack.schema.targets import DIVERGENCES, Divergence
from thack.targets import TopKTarget

INF = float("inf")


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_rows_without_mass_in_some_place(kind: Any) -> None:
    """Without a tail on either side, and with all: finite where Rust's are."""
    ids = torch.tensor([[0, 1], [0, 2]], dtype=torch.int32)
    log_probs = torch.tensor([[0.5, 0.5], [0.9, 0.05]]).log()
    teacher = SparseRows(ids, log_probs, torch.tensor([-INF, math.log(0.05)]), 4)
    student = torch.tensor([[0.0, 1.0, -INF, -INF], [0.5, 1.0, 0.3, -2.0]])
    swept, by_rust = student.clone(), student.clone()
    loss = sparse_by_sweeps_(swept, teacher, Divergence(kind=kind))
    expected = kernels.sparse_divergence_(by_rust, teacher, Divergence(kind=kind))
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(swept, by_rust, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_ids_of_a_teacher_without_a_share_of_a_mixture(share: float) -> None:
    """They weigh 0 amid the ids that count; padding behind them repeats the last id. By the definition, in float64."""
    ids = torch.tensor([[2, 5, 6, 9, 11, 11], [0, 3, 4, 7, 8, 10]], dtype=torch.int32)
    weights = torch.tensor([[0.0, 0.25, 0.75, 0.0, share, 0.0], [share, 0.5, 0.0, 0.0, 0.5, 0.0]])
    teacher = SparseRows(ids, weights, torch.tensor([0.3, 0.7]), 12, sampled=True)
    student = torch.randn(2, 12, generator=torch.Generator().manual_seed(3))
    swept, by_definition = student.clone(), student.double().requires_grad_()
    loss = sparse_by_sweeps_(swept, teacher, Divergence())
    expected = -(weights.double() * torch.log_softmax(by_definition, 1).gather(1, ids.long())).sum(1) - teacher.tail_N
    expected.sum().backward()
    torch.testing.assert_close(loss, expected.float(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(swept, by_definition.grad.float(), atol=1e-6, rtol=1e-5)  # type: ignore[union-attr]


def test_float64_goes_through_autograd_by_sweeps() -> None:
    """No kernel takes float64: values and gradient are those of the definition, to its precision."""
    logits, teacher = torch.randn(2, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    log_p = torch.log_softmax(teacher, 1)
    ids = log_p.topk(4, dim=1).indices.sort(dim=1).values
    target = TopKTarget(
        ids_NK=ids.int(),
        log_probs_NK=log_p.gather(1, ids),
        log_tail_N=log_p.scatter(1, ids, -INF).logsumexp(1),
        vocab_size=20,
    )
    assert torch.autograd.gradcheck(
        lambda z: divergence(z, target, Divergence(kind="jsd", parameter=0.3)), logits.requires_grad_()
    )


def test_an_infinite_reverse_kl_is_refused() -> None:
    target = TopKTarget(
        ids_NK=torch.tensor([[0, 1]], dtype=torch.int32),
        log_probs_NK=torch.tensor([[0.5, 0.5]], dtype=torch.float64).log(),
        log_tail_N=torch.tensor([-INF]),
        vocab_size=4,
    )
    with pytest.raises(UndefinedLoss, match="reverse KL is infinite"):
        divergence(torch.zeros(1, 4, dtype=torch.float64), target, Divergence(kind="reverse_kl"))
