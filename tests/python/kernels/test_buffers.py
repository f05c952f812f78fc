"""Tensors of another shape, or with numbers that the arrays cannot hold, are refused: they were read anyway."""

from __future__ import annotations

import pytest
import torch

from thack import kernels
from thack.errors import UsageError

LOGITS = torch.randn(4, 6)
KEYS = torch.zeros(4, 4, dtype=torch.int64)
TEACHER = kernels.SparseRows(
    torch.tensor([[0, 1]]).int().repeat(4, 1),
    torch.full((4, 2), 0.3).log(),
    torch.full((4,), 0.4).log(),
    6,
)


@pytest.mark.parametrize("labels", [torch.zeros(1), torch.zeros(3), torch.zeros(7), torch.zeros(4, 1)])
def test_there_is_one_label_for_each_row(labels: torch.Tensor) -> None:
    """Three of seven numbers came from memory that nobody had written."""
    with pytest.raises(UsageError, match=r"has shape .*, not \(4,\)"):
        kernels.topk_logsumexp(LOGITS, 2, labels_N=labels.long())
    with pytest.raises(UsageError, match=r"has shape .*, not \(4,\)"):
        kernels.threshold_sample(LOGITS, 2, seed=0, keys_N4=KEYS, labels_N=labels.long())


def test_numbers_that_an_array_cannot_hold_are_refused() -> None:
    for label in (2**32, -(2**32) + 1):  # were the ids 0 and 1
        with pytest.raises(UsageError, match=f"{label} is no int32"):
            kernels.topk_logsumexp(LOGITS, 2, labels_N=torch.full((4,), label))
        with pytest.raises(UsageError, match=f"{label} is no int32"):
            kernels.sparse_divergence(LOGITS, TEACHER._replace(ids_NK=torch.full((4, 2), label)))
    with pytest.raises(UsageError, match=r"1\.5 is no int32"):
        kernels.topk_logsumexp(LOGITS, 2, labels_N=torch.full((4,), 1.5))
    with pytest.raises(UsageError, match=r"0\.5 is no int64"):
        kernels.sample(LOGITS, seed=0, keys_N4=torch.full((4, 4), 0.5))


def test_as_many_numbers_in_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"has shape \(2, 8\), not \(4, 4\)"):
        kernels.sample(LOGITS, seed=0, keys_N4=KEYS.view(2, 8))
    with pytest.raises(UsageError, match=r"has shape \(2, 4\), not \(4, 2\)"):
        kernels.sparse_divergence(LOGITS, TEACHER._replace(values_NK=TEACHER.values_NK.view(2, 4)))
    with pytest.raises(UsageError, match=r"has shape \(6, 4\), not \(4, 6\)"):
        kernels.dense_forward_kl(LOGITS, torch.zeros(6, 4))


def test_cells_do_not_overwrite_a_copy() -> None:
    """The logits stayed what they were, and were taken for their gradient."""
    cell_V, zero = torch.tensor([0, 0, 1]), torch.zeros(2, 1, dtype=torch.int64)
    cells = kernels.CellMembers(cell_V, torch.arange(3), torch.tensor([0, 2]), torch.tensor([2, 1]), cell_V[:0])
    rows = kernels.CellRows(torch.ones(2, 1), zero, torch.zeros(2), zero, torch.ones(2, 1), torch.zeros(2) > 0)
    with pytest.raises(UsageError, match="not contiguous"):
        kernels.cells_divergence_(torch.randn(3, 2).t(), cells, rows)
