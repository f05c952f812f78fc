"""The loss on cells: a student whose tokenizer is not the teacher's.

    loss_n = −Σ_c P(c) log Q(c) − Σ_u w(u) [log q(u) − log Q(c(u))]        where a token of both begins
    loss_n = −Σ_u w(u) log q(u)                                            inside a token of the teacher's

q is the softmax over the student's ids that are text, Q(c) = Σ_u q(u)·[c(u) = c]. By the chain rule of entropy: the
cell first, the id inside it second. With equal tokenizers every id is a cell of its own, and the gradient is forward
KL's; the value is the cross-entropy, which is larger by the teacher's entropy. Mass that a target lacks (of cells that
hold no id of the student's, of pairs that its encoder never writes) is left out of P, so P may sum to less than 1. The
tail of a top-k target is one outcome: all cells that are not kept.

With M = ΣP and the log-sum-exp L of all ids, L_c of a cell, W_c = Σ_u w(u)·[c(u) = c]:

    loss = M·L − Σ_c P_c·L_c + Σ_c W_c·L_c − Σ_u w_u·z_u          slope at v = M·q_v + (W_c − P_c)·q_v/Q_c − w_v

A log-sum-exp has the maximum of its own ids wherever a cell would lose digits without, so a cell of tiny mass has a
finite logarithm.

N rows, V student ids, C cells, K kept cells of a row, E (row, cell) pairs, F (row, cell, id) triples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thack.errors import MismatchError
from thack.kernels import CellMembers, CellRows, cells_divergence_
from thack.losses.shapes import check_target
from thack.losses.sparse import has_kernel
from thack.schema.defined import check_cells_defined
from thack.schema.targets import Divergence
from thack.targets.cells import CellTarget

_TINY = 1e-30  # below it, float32 loses digits


def cell_divergence_(logits_NV: Tensor, target: CellTarget, divergence: Divergence) -> Tensor:
    """loss_N, with the logits overwritten by its gradient.

    Args:
        logits_NV: the student's; computed in float32 at least.
        target: as of the same rows.
        divergence: forward KL at temperature 1.

    Returns:
        Nats; +inf where an id or a cell that has weight has no mass of the student's.

    Raises:
        UndefinedLoss: another divergence, or another temperature.
        MismatchError: logits and target have different shapes; or the target is of other cells: names row and id.
    """
    check_cells_defined(divergence)
    check_target(logits_NV.shape, target)
    z_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    cells = target.student.on(z_NV.device)
    _check_cells(target, cells)
    if target.cells_NK is not None and has_kernel(z_NV):
        weights = (target.ids_NW, target.weights_NW, target.is_inside_N)
        loss_N = cells_divergence_(z_NV, cells, CellRows(target.mass_NK, target.cells_NK, target.tail_N, *weights))
    else:
        z_NV.index_fill_(1, cells.outside, -torch.inf)
        loss_N = _loss_(z_NV, target, cells)
    if z_NV is not logits_NV:
        logits_NV.copy_(z_NV)
    return loss_N


def _check_cells(target: CellTarget, cells: CellMembers) -> None:
    """Raise MismatchError for a weighted id without a cell, of which q is 0, and for a cell that is not there."""
    ids_NW, vocab = target.ids_NW, len(cells.cell_V)
    has_cell_NW = (ids_NW >= 0) & (ids_NW < vocab) & (cells.cell_V[ids_NW.clamp(0, vocab - 1)] >= 0)
    wrong = [("student id", ids_NW, (target.weights_NW > 0) & ~has_cell_NW, "has a weight and no cell")]
    if target.cells_NK is not None:
        wrong.append(("cell", target.cells_NK, target.cells_NK >= len(cells.size_C), "is none of the student's"))
    for name, values, is_wrong, reason in wrong:
        if bool(is_wrong.any()):
            row, column = is_wrong.nonzero()[0].tolist()
            raise MismatchError(
                f"row {row}: {name} {int(values[row, column])} {reason}",
                hint="make the target with the cells of this student's tokenizer; a token that is no text has none",
            )


def _loss_(z_NV: Tensor, target: CellTarget, cells: CellMembers) -> Tensor:
    """z_NV becomes the gradient."""
    dtype = z_NV.dtype
    weight_NW = target.weights_NW.to(dtype)
    weighted_NW = weight_NW > 0
    z_NW = z_NV.gather(1, target.ids_NW)
    inside = _Members.of(
        z_NV, torch.where(weighted_NW & ~target.is_inside_N[:, None], cells.cell_V[target.ids_NW], -1), cells
    )
    # Inside a token of the teacher's the whole vocabulary takes the cell's place: M = Σw and no cell.
    whole_N = torch.where(target.is_inside_N, weight_NW.sum(1), 0)
    log_cell_NW = torch.where(target.is_inside_N[:, None], 0, inside.log_sum_NE)
    terms_NW = torch.where(weighted_NW, weight_NW * (log_cell_NW - z_NW), 0)
    # log 0 − log 0 of a cell without mass is the logarithm of an id without mass.
    loss_N = torch.where(weighted_NW & torch.isneginf(z_NW), torch.inf, terms_NW).sum(1)
    if target.cells_NK is None:
        loss_N += _dense_(z_NV, target, cells, whole_N)
    else:
        loss_N += _kept_(z_NV, target, target.cells_NK, cells, whole_N)
    flat = z_NV.view(-1)
    spread_F = inside.share_F * weight_NW.flatten()[inside.entry_F]
    flat.index_add_(0, inside.place_F, spread_F)
    z_NV.scatter_add_(1, target.ids_NW, -weight_NW)
    return loss_N


def _kept_(z_NV: Tensor, target: CellTarget, cells_NK: Tensor, cells: CellMembers, whole_N: Tensor) -> Tensor:
    """M·L − Σ P_c·L_c over the kept cells and the rest; z_NV becomes M·q − P_c·q/Q_c."""
    dtype = z_NV.dtype
    mass_NK, tail_N = target.mass_NK.to(dtype), target.tail_N.to(dtype)
    total_N = mass_NK.sum(1) + tail_N + whole_N
    kept = _Members.of(z_NV, cells_NK, cells)
    z_NV.view(-1)[kept.place_F] = -torch.inf
    log_rest_N = torch.logsumexp(z_NV, dim=1)
    log_all_N = torch.logaddexp(log_rest_N, torch.logsumexp(kept.log_sum_NE, dim=1))
    known_NK = torch.where(mass_NK > 0, -mass_NK * (kept.log_sum_NE - log_all_N[:, None]), 0)
    tail_loss_N = torch.where(tail_N > 0, -tail_N * (log_rest_N - log_all_N), 0)
    rest_N = total_N * (log_rest_N - log_all_N).exp() - tail_N
    z_NV.sub_(torch.where(torch.isneginf(log_rest_N), 0, log_rest_N)[:, None]).exp_().mul_(rest_N[:, None])
    slope_NK = total_N[:, None] * (kept.log_sum_NE - log_all_N[:, None]).exp() - mass_NK
    z_NV.view(-1)[kept.place_F] = kept.share_F * slope_NK.flatten()[kept.entry_F]
    return known_NK.sum(1) + tail_loss_N + whole_N * log_all_N


def _dense_(z_NV: Tensor, target: CellTarget, cells: CellMembers, whole_N: Tensor) -> Tensor:
    """The same with masses of every cell: a segment sum over the vocabulary there, and a gather back."""
    mass_NC = target.mass_NK.to(z_NV.dtype)
    total_N = mass_NC.sum(1) + whole_N
    index_NV = cells.cell_V.clamp_min(0).expand_as(z_NV)
    top_N = z_NV.amax(1)
    power_NV = (z_NV - top_N[:, None]).exp_()  # an id that is no text has none
    sum_NC = z_NV.new_zeros(mass_NC.shape).scatter_add_(1, index_NV, power_NV)
    has_mass_NC = mass_NC > 0
    if bool((has_mass_NC & ~(sum_NC > _TINY)).any()):
        return _dense_by_cell_(z_NV, target, cells, whole_N)
    all_N = sum_NC.sum(1)
    loss_N = total_N * all_N.log() + whole_N * top_N
    loss_N -= torch.where(has_mass_NC, mass_NC * sum_NC.clamp_min(_TINY).log(), 0).sum(1)
    factor_NC = (mass_NC / sum_NC.clamp_min_(_TINY)).neg_().add_((total_N / all_N)[:, None])
    torch.mul(power_NV, factor_NC.gather(1, index_NV), out=z_NV)
    return loss_N


def _dense_by_cell_(z_NV: Tensor, target: CellTarget, cells: CellMembers, whole_N: Tensor) -> Tensor:
    """The same, each cell by the maximum of its own ids: where one that has mass is too small beside the largest."""
    mass_NC = target.mass_NK.to(z_NV.dtype)
    total_N = mass_NC.sum(1) + whole_N
    index_NV = cells.cell_V.clamp_min(0).expand_as(z_NV)
    shape = (len(z_NV), target.student.num_cells)
    top_NC = z_NV.new_full(shape, -torch.inf).scatter_reduce_(1, index_NV, z_NV, "amax")
    top_NC = torch.where(torch.isneginf(top_NC), 0, top_NC)
    z_NV.sub_(top_NC.gather(1, index_NV)).exp_()  # an id that is no text has none
    sum_NC = z_NV.new_zeros(shape).scatter_add_(1, index_NV, z_NV)
    log_sum_NC = top_NC + sum_NC.log()
    log_q_NC = log_sum_NC - torch.logsumexp(log_sum_NC, dim=1, keepdim=True)
    slope_NC = total_N[:, None] * log_q_NC.exp() - mass_NC
    z_NV.mul_((slope_NC / sum_NC.clamp_min(torch.finfo(z_NV.dtype).tiny)).gather(1, index_NV))
    loss_N = torch.where(mass_NC > 0, -mass_NC * log_q_NC, 0).sum(1)
    return loss_N + whole_N * torch.logsumexp(log_sum_NC, dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Members:
    """The ids of some cells in each row, one after the other.

    Args:
        log_sum_NE: L_c of each cell; −inf where there is no cell.
        place_F: flat index into the logits.
        entry_F: flat index into `log_sum_NE`.
        share_F: q_v / Q_c.
    """

    log_sum_NE: Tensor
    place_F: Tensor
    entry_F: Tensor
    share_F: Tensor

    @classmethod
    def of(cls, z_NV: Tensor, cell_NE: Tensor, cells: CellMembers) -> _Members:
        """Of cells that are distinct in a row, −1: none."""
        cell_E = cell_NE.flatten()
        size_E = torch.where(cell_E >= 0, cells.size_C[cell_E.clamp_min(0)], 0)
        entry_F = torch.repeat_interleave(size_E)
        before_E = size_E.cumsum(0) - size_E
        rank_F = torch.arange(len(entry_F), device=z_NV.device) - before_E[entry_F]
        id_F = cells.members[cells.start_C[cell_E[entry_F]] + rank_F]
        place_F = entry_F // cell_NE.shape[1] * z_NV.shape[1] + id_F
        z_F = z_NV.reshape(-1)[place_F]
        top_E = z_NV.new_full((len(cell_E),), -torch.inf).scatter_reduce_(0, entry_F, z_F, "amax")
        top_E = torch.where(torch.isneginf(top_E), 0, top_E)
        share_F = (z_F - top_E[entry_F]).exp_()
        sum_E = z_NV.new_zeros(len(cell_E)).index_add_(0, entry_F, share_F)
        share_F /= sum_E.clamp_min(torch.finfo(z_NV.dtype).tiny)[entry_F]
        return cls(log_sum_NE=(top_E + sum_E.log()).view_as(cell_NE), place_F=place_F, entry_F=entry_F, share_F=share_F)
