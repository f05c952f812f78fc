"""Divergences with their gradients, in two Rust sweeps over a row of logits on the CPU.

`sparse_divergence` is differentiable and leaves the logits alone: it copies them into memory that is used again, and
the copy becomes the gradient. With `overwrite=True` the logits themselves do. `sparse_divergence_` knows nothing of
autograd: it does the same on a buffer, label and weights included. `thack.losses` runs on any device and takes these on
the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thack import _native
from thack.errors import UsageError
from thack.kernels.buffers import array, rows, use_torch_threads
from thack.kernels.pages import Pages
from thack.kernels.types import CellMembers, CellRows, SparseRows
from thack.schema.targets import Divergence

_FORWARD_KL = Divergence()
_PAGES = Pages()


def sparse_divergence(
    logits_NV: Tensor,
    teacher: SparseRows,
    divergence: Divergence = _FORWARD_KL,
    *,
    weights_N: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """weight_n · loss_n, differentiable in the student's logits.

    On K+1 outcomes: the K ids, and all others as one, of which the student's share is a masked log-sum-exp. Sampled
    rows: −Σ w log q − H(p), forward KL at T = 1 only.

    Args:
        logits_NV: the student's, on the CPU: float32, bfloat16 or float16.
        teacher: at the temperature of the divergence.
        divergence: kind, parameter and temperature.
        weights_N: 1 if None; a row of weight 0 is ignored, whatever its logits are.
        overwrite: the memory of the logits holds their gradient afterwards, and no [N, V] tensor is allocated. The
            backward runs once. For contiguous results of an operation that does not keep its result.

    Returns:
        float32 [N], in nats times T².

    Raises:
        UndefinedLoss: reverse KL is infinite: the student has mass where the teacher has none.
        ModelError: a row holds NaN or +inf, or nothing but −inf; names the row.
        MismatchError: the ids are not increasing or not below the vocabulary; names the row.
        UsageError: the logits are elsewhere, of another shape or format, or a parameter that would be overwritten.

    Example:
        >>> teacher = SparseRows(torch.tensor([[1]]).int(), torch.tensor([[0.5]]).log(), torch.tensor([0.5]).log(), 3)
        >>> round(float(sparse_divergence(torch.zeros(1, 3), teacher)), 4)
        0.0589
    """
    _check_device(logits_NV)
    if overwrite and logits_NV.requires_grad and logits_NV.is_leaf:
        raise UsageError("logits that are a parameter cannot be overwritten", hint="use overwrite=False")
    loss_N: Tensor = _Sparse.apply(logits_NV, teacher, divergence, weights_N, overwrite)
    return loss_N


def sparse_divergence_(
    logits_NW: Tensor,
    teacher: SparseRows,
    divergence: Divergence = _FORWARD_KL,
    *,
    labels_N: Tensor | None = None,
    ce_weight: float = 0.0,
    weights_N: Tensor | None = None,
) -> Tensor:
    """weight_n · (loss_n + ce_weight · −log q(label_n)); the logits become the gradient of the sum. No autograd.

    Args:
        logits_NW: the student's, contiguous; W ≥ the teacher's vocabulary. Further columns are padding and get
            gradient 0.
        teacher: the records, as of `sparse_divergence`.
        divergence: as of `sparse_divergence`.
        weights_N: as of `sparse_divergence`.
        labels_N: int64, below the vocabulary; a negative one has no cross-entropy.
        ce_weight: weight of the cross-entropy, which is at temperature 1.

    Returns:
        float32 [N], in nats times T².

    Raises: as `sparse_divergence`; MismatchError for a label outside the vocabulary.

    Example:
        >>> teacher = SparseRows(torch.tensor([[1]]).int(), torch.tensor([[1.0]]), torch.tensor([0.0]), 2, sampled=True)
        >>> logits = torch.zeros(1, 2)
        >>> round(float(sparse_divergence_(logits, teacher)), 4), logits.tolist()
        (0.6931, [[0.5, -0.5]])
    """
    _check_device(logits_NW)
    _check_contiguous(logits_NW)
    if teacher.sampled and (divergence.kind, divergence.temperature) != ("forward_kl", 1.0):
        raise UsageError(f"{divergence} of sampled rows: they define forward KL at temperature 1 alone")
    use_torch_threads()
    elements, name, columns = rows(logits_NW)
    n, losses = len(logits_NW), np.empty(len(logits_NW), np.float32)
    kept = teacher.ids_NK.shape[1:]
    _native.sparse_divergence(
        elements,
        name,
        teacher.vocab_size,
        array(teacher.ids_NK, np.int32, n, *kept),
        array(teacher.values_NK, np.float32, n, *kept),
        array(teacher.tail_N, np.float32, n),
        "sampled" if teacher.sampled else divergence.kind,
        divergence.teacher_share,
        divergence.temperature,
        losses,
        columns=columns,
        labels=array(labels_N, np.int64, n) if labels_N is not None and ce_weight else None,
        weights=None if weights_N is None else array(weights_N, np.float32, n),
        ce_weight=ce_weight,
    )
    return torch.from_numpy(losses)


def cells_divergence_(logits_NV: Tensor, cells: CellMembers, target: CellRows) -> Tensor:
    """−Σ P(c) log Q(c) − Σ w(u) [log q(u) − log Q(c(u))] of each row; the logits become its gradient. No autograd.

    `thack.losses.cells` says what it is of rows with a tail, and inside a token of the teacher's.

    Args:
        logits_NV: the student's, float32 on the CPU, contiguous.
        cells: of its ids.
        target: of the same rows.

    Returns:
        float32 [N], in nats; +inf where an id or a cell that has weight has no mass of the student's.

    Raises:
        ModelError: a row holds NaN or +inf, or nothing but −inf; names the row.
        MismatchError: an id or a cell is outside of `cells`; names the row.

    Example:
        >>> cell_V, one = torch.tensor([0, 0, 1]), torch.tensor([1.0])
        >>> cells = CellMembers(cell_V, torch.arange(3), torch.tensor([0, 2]), torch.tensor([2, 1]), cell_V[:0])
        >>> kept = CellRows(one[:, None], cell_V[:1, None], 0 * one, cell_V[:1, None], one[:, None], one < 0)
        >>> round(float(cells_divergence_(torch.zeros(1, 3), cells, kept)), 4)
        1.0986
    """
    _check_device(logits_NV)
    _check_contiguous(logits_NV)
    use_torch_threads()
    n, losses = len(logits_NV), np.empty(len(logits_NV), np.float32)
    kept, weighted = target.cells_NK.shape[1:], target.ids_NW.shape[1:]
    cell, members, starts, sizes, outside = (array(ids, np.int64, len(ids)) for ids in cells)
    _native.cells_divergence(
        rows(logits_NV).elements,
        cell,
        members,
        starts,
        sizes,
        outside,
        array(target.mass_NK, np.float32, n, *kept),
        array(target.cells_NK, np.int64, n, *kept),
        array(target.tail_N, np.float32, n),
        array(target.ids_NW, np.int64, n, *weighted),
        array(target.weights_NW, np.float32, n, *weighted),
        array(target.is_inside_N, np.uint8, n),
        losses,
    )
    return torch.from_numpy(losses)


def dense_forward_kl(logits_NV: Tensor, log_probs_NV: Tensor) -> tuple[Tensor, Tensor]:
    """(loss_N, grad_NV): Σ_v p·(log p − log q) of each row with its gradient by the logits, q·Σp − p. No autograd.

    Args:
        logits_NV: the student's, float32 on the CPU; they stay as they are.
        log_probs_NV: the teacher's, float32 on the CPU; Σp need not be 1.

    Returns:
        float32; the gradient is in memory that is used again once no tensor holds it. Where a loss is not finite, the
        row of the gradient means nothing.

    Example:
        >>> loss_N, grad_NV = dense_forward_kl(torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]).log())
        >>> round(float(loss_N), 4), [round(slope, 4) for slope in grad_NV[0].tolist()]
        (0.1308, [-0.25, 0.25])
    """
    _check_device(logits_NV)
    use_torch_threads()
    grad_NV = _PAGES.copy(logits_NV.detach())
    losses = np.empty(len(logits_NV), np.float32)
    _native.dense_forward_kl(rows(grad_NV).elements, array(log_probs_NV, np.float32, *logits_NV.shape), losses)
    return torch.from_numpy(losses), grad_NV


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_NV: Tensor,
        teacher: SparseRows,
        divergence: Divergence,
        weights_N: Tensor | None,
        overwrite: bool,
    ) -> Tensor:
        grad_NV = logits_NV.detach() if overwrite else _PAGES.copy(logits_NV.detach())
        loss_N = sparse_divergence_(grad_NV, teacher, divergence, weights_N=weights_N)
        if overwrite:  # an operation that kept the logits for its own backward raises there
            torch.autograd.graph.increment_version(grad_NV)
        ctx.save_for_backward(grad_NV)
        ctx.overwrite, ctx.used = overwrite, False
        return loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.used:
            raise UsageError("a divergence that overwrote its logits has one backward", hint="use overwrite=False")
        (grad_NV,) = ctx.saved_tensors
        if bool((upstream_N == 1).all()):  # a plain sum: the gradient is there already
            return grad_NV, None, None, None, None
        upstream_N1 = upstream_N[:, None].to(grad_NV.dtype)
        ctx.used = ctx.overwrite
        return (grad_NV.mul_(upstream_N1) if ctx.overwrite else grad_NV * upstream_N1), None, None, None, None


def _check_contiguous(logits_NV: Tensor) -> None:
    if not logits_NV.is_contiguous():
        raise UsageError("logits to overwrite are not contiguous", hint="leave padded columns where they are")


def _check_device(logits_NV: Tensor) -> None:
    if logits_NV.device.type != "cpu":
        raise UsageError(
            f"this kernel runs on the CPU, and the logits are on {logits_NV.device}",
            hint="use thack.losses, which runs on any device",
        )
