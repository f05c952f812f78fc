"""From the target of a teacher's rows to that of a student's, where the two have different tokenizers.

    P(c) = Σ_v p(v) · can_S[s_prev, f(v)] · [c_T(v) = c]

at every row of the student at which a token of both begins; s_prev is the student's token before it. The first row of a
response has no such token, and every pair is allowed there. P is linear in p, so that of sampled records is unbiased.
Mass of ids without text or without a cell of the student's is left out, and counted.

The weights inside a cell are those of the realised student token ("cell"), or of the teacher's next row ("cell-next"):

    w(u) ∝ Σ_v p_next(v) · can_T[t, v] · [the student's encoding of the bytes of t·v begins with u]

where t is the realised teacher token, and the realised v counts for the realised u. Where t settles which student token
begins, that is the realised one. A ratio of estimates: over draws of sampled records it has a bias.

B rows where both begin, N student rows, K kept teacher ids, C cells, V_T teacher ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from thack.cross_tokenizer import Alignment, Cells
from thack.schema.preflight import CellShares
from thack.targets.cells import CellTarget, StudentCells
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, Target, TopKTarget

CellVariant = Literal["cell", "cell-next"]
_TESTED = 1e-5  # dense rows: pairs of ids with less mass than this are not tested
_TRIED = 512  # rows of which it is counted whether they settle the student's token, which takes some ms for each token
_NEXT = 64  # dense rows: ids of the next row that are carried over


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedResponse:
    """One response in both encodings.

    Args:
        teacher_ids: int [R_T] its rows are those of the teacher's target.
        student_ids: int [R_S].
        alignment: of the two.
    """

    teacher_ids: np.ndarray
    student_ids: np.ndarray
    alignment: Alignment


@dataclass(slots=True, kw_only=True)
class CellCounts:
    """What was seen of responses: rows and tokens as numbers, mass as sums of probabilities.

    Args:
        student_rows: rows of the student.
        common_rows: those where a token of both begins.
        outside: of these, rows whose realised student token is in another cell than the realised teacher token.
        tried: of these, rows at which it was asked whether the realised teacher token settles the student's: the first.
        settled: of these, rows at which it does.
        mass: Σp at these rows, as far as ids are kept.
        left_out: of it, mass of ids without text, or in a cell without an id of the student's.
        forbidden: of it, mass of pairs that the student's encoder never writes.
    """

    student_rows: int = 0
    common_rows: int = 0
    outside: int = 0
    tried: int = 0
    settled: int = 0
    mass: float = 0.0
    left_out: float = 0.0
    forbidden: float = 0.0

    def shares(self) -> CellShares:
        """The same as shares."""
        mass = max(self.mass, 1e-30)
        return CellShares(
            rows=self.student_rows,
            common=self.common_rows / max(self.student_rows, 1),
            settled=self.settled / max(self.tried, 1),
            outside=self.outside / max(self.common_rows, 1),
            left_out=self.left_out / mass,
            forbidden=self.forbidden / mass,
        )


@dataclass(frozen=True, kw_only=True)
class CellCarrier:
    """Makes targets of cells.

    Args:
        cells: the comparison of the two vocabularies.
        student_width: ids of the student that are compared.
        variant: of the weights inside a cell.
        masks: whether pairs that the student's encoder never writes lose their mass.
    """

    cells: Cells
    student_width: int
    variant: CellVariant = "cell"
    masks: bool = True

    def target(
        self, teacher: Target, responses: Sequence[AlignedResponse], counts: CellCounts | None = None
    ) -> CellTarget:
        """The target of the student's rows, response after response.

        Args:
            teacher: of the teacher's rows, response after response; on any device.
            responses: in the order of the rows.
            counts: is added to.

        Returns:
            On the device of `teacher`.
        """
        assert not isinstance(teacher, FrozenHeadTarget), "of a head whose ids are the teacher's"
        rows = _Rows.of(responses)
        if counts is not None:
            self._count(rows, counts)
        counts = CellCounts() if counts is None else counts
        if isinstance(teacher, DenseTarget):
            mass_NK, cells_NK = self._dense(teacher, rows, counts), None
        else:
            mass_NK, cells_NK = self._kept(teacher, rows, counts)
        tail_N = np.zeros(rows.count, np.float32)
        if isinstance(teacher, TopKTarget) and teacher.log_tail_N is not None:
            tail_N[rows.common_B] = teacher.log_tail_N.exp().cpu().numpy()[rows.teacher_B]
        ids_NW, weights_NW = self._weights(teacher, rows)
        device = (teacher.log_probs_NV if isinstance(teacher, DenseTarget) else teacher.ids_NK).device
        is_inside_N = np.ones(rows.count, bool)
        is_inside_N[rows.common_B] = False
        return CellTarget(
            student=self._student,
            mass_NK=mass_NK.to(device),
            cells_NK=None if cells_NK is None else cells_NK.to(device),
            tail_N=torch.from_numpy(tail_N).to(device),
            ids_NW=torch.from_numpy(ids_NW).to(device),
            weights_NW=torch.from_numpy(weights_NW).to(device),
            is_inside_N=torch.from_numpy(is_inside_N).to(device),
            vocab_size=self.student_width,
        )

    @cached_property
    def _student(self) -> StudentCells:
        cell_V = np.full(self.student_width, -1, np.int64)
        known = self.cells.cell_student_V_S[: self.student_width]
        cell_V[: len(known)] = known
        return StudentCells(torch.from_numpy(cell_V), self.cells.num_cells)

    @cached_property
    def _cell_V_T(self) -> np.ndarray:
        """The cell of each teacher id; −1 also where the student has no id in it, or no token begins the id's bytes."""
        has_ids_C = self._student.on(torch.device("cpu")).size_C.numpy() > 0
        cell_V_T = self.cells.cell_teacher_V_T.astype(np.int64)
        known = (cell_V_T >= 0) & (self.cells.first_V_T >= 0)
        return np.where(known & has_ids_C[np.maximum(cell_V_T, 0)], cell_V_T, -1)

    def _allowed(self, previous_B: np.ndarray, ids_BK: np.ndarray, tested_BK: np.ndarray) -> np.ndarray:
        """bool [B, K]: the student's encoder may write f(v) behind the token before; True where not `tested_BK`."""
        found = np.ones(ids_BK.shape, bool)
        if self.masks:
            place = np.nonzero(tested_BK)
            found[place] = self.cells.can_student(previous_B[place[0]], self.cells.first_V_T[ids_BK[place]])
        return found

    def _kept(self, teacher: TopKTarget | SampledTarget, rows: _Rows, counts: CellCounts) -> tuple[Tensor, Tensor]:
        """mass_NK and cells_NK: ids of one cell are added up."""
        ids_BK, mass_BK = (values[rows.teacher_B] for values in _kept(teacher))
        cell_BK, has_mass_BK = self._cell_V_T[ids_BK], mass_BK > 0
        # A top-k id without mass of its own is kept: its cell is not among those that share the tail.
        part_BK = (cell_BK >= 0) & (has_mass_BK | (not isinstance(teacher, SampledTarget)))
        allowed_BK = self._allowed(rows.previous_B, ids_BK, part_BK & has_mass_BK)
        counts.mass += float(mass_BK.sum())
        counts.left_out += float((mass_BK * (cell_BK < 0)).sum())
        counts.forbidden += float((mass_BK * part_BK * ~allowed_BK).sum())
        row, column = np.nonzero(part_BK)
        num_cells = self.cells.num_cells
        keys_U, inverse = np.unique(row * num_cells + cell_BK[row, column], return_inverse=True)
        mass_U = np.bincount(inverse, (mass_BK * allowed_BK)[row, column], minlength=len(keys_U))
        row_U = keys_U // num_cells
        rank_U = np.arange(len(keys_U)) - np.searchsorted(row_U, row_U)
        shape = (rows.count, int(rank_U.max(initial=0)) + 1)
        mass_NK, cells_NK = np.zeros(shape, np.float32), np.full(shape, -1, np.int64)
        mass_NK[rows.common_B[row_U], rank_U] = mass_U
        cells_NK[rows.common_B[row_U], rank_U] = keys_U % num_cells
        return torch.from_numpy(mass_NK), torch.from_numpy(cells_NK)

    def _dense(self, teacher: DenseTarget, rows: _Rows, counts: CellCounts) -> Tensor:
        p_BV = teacher.log_probs_NV[torch.from_numpy(rows.teacher_B).to(teacher.log_probs_NV.device)].exp()
        cell_V = torch.from_numpy(self._cell_V_T[: p_BV.shape[1]]).to(p_BV.device)
        counts.mass += float(p_BV.sum())
        counts.left_out += float(p_BV[:, cell_V < 0].sum())
        p_BV[:, cell_V < 0] = 0
        tested = (p_BV > _TESTED).nonzero()
        row, ids = tested.T.cpu().numpy()
        if self.masks:
            allowed = self.cells.can_student(rows.previous_B[row], self.cells.first_V_T[ids])
            forbidden = tested[torch.from_numpy(~allowed).to(p_BV.device)]
            counts.forbidden += float(p_BV[forbidden[:, 0], forbidden[:, 1]].sum())
            p_BV[forbidden[:, 0], forbidden[:, 1]] = 0
        mass_NC = p_BV.new_zeros(rows.count, self.cells.num_cells)
        mass_BC = p_BV.new_zeros(len(p_BV), self.cells.num_cells)
        mass_BC.scatter_add_(1, cell_V.clamp_min(0).expand_as(p_BV), p_BV)
        mass_NC[torch.from_numpy(rows.common_B).to(p_BV.device)] = mass_BC
        return mass_NC

    def _weights(self, teacher: Target, rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
        """ids_NW and weights_NW: the realised token, or the next row's where that is asked for."""
        ids_N1, one_N1 = rows.realised_N[:, None], np.ones((rows.count, 1), np.float32)
        if self.variant == "cell":
            return ids_N1, one_N1
        open_U = np.flatnonzero(rows.has_next_B)
        if not len(open_U):
            return ids_N1, one_N1
        next_ids, next_mass = _next_rows(teacher, rows.teacher_B[open_U] + 1)
        ids_NW = np.repeat(ids_N1, next_ids.shape[1] + 1, 1)
        weights_NW = np.zeros(ids_NW.shape, np.float32)
        weights_NW[:, 0] = 1
        first_UK = self._firsts(rows, open_U, next_ids)
        mass_UK = np.where(first_UK >= 0, next_mass, 0)
        total_U = mass_UK.sum(1)
        found = total_U > 0
        place = rows.common_B[open_U[found]]
        ids_NW[place, 1:] = np.maximum(first_UK[found], 0)
        weights_NW[place, 1:] = mass_UK[found] / total_U[found, None]
        weights_NW[place, 0] = 0
        return ids_NW, weights_NW

    def _firsts(self, rows: _Rows, open_U: np.ndarray, next_UK: np.ndarray) -> np.ndarray:
        """int64 [U, K] the student's first token of the two ids' bytes; −1: the teacher's encoder never writes them."""
        current_U, cells = rows.realised_teacher_B[open_U], self.cells
        found = np.full(next_UK.shape, -1, np.int64)
        allowed = cells.can_teacher(current_U[:, None], next_UK)
        left_A, right_A = np.broadcast_to(current_U[:, None], next_UK.shape)[allowed], next_UK[allowed]
        found[allowed] = cells.student.first_of_pairs(cells.teacher, left_A, right_A)
        realised = next_UK == rows.next_teacher_B[open_U][:, None]
        return np.where(realised, rows.realised_N[rows.common_B[open_U]][:, None], found)

    def _count(self, rows: _Rows, counts: CellCounts) -> None:
        cell_S = self.cells.cell_student_V_S[rows.realised_N[rows.common_B]]
        counts.student_rows += rows.count
        counts.common_rows += len(rows.common_B)
        tried = rows.realised_teacher_B[: _TRIED - counts.tried]
        counts.tried += len(tried)
        counts.settled += int(self.cells.settled(tried).sum())
        counts.outside += int((cell_S != self.cells.cell_teacher_V_T[rows.realised_teacher_B]).sum())


def _kept(teacher: TopKTarget | SampledTarget) -> tuple[np.ndarray, np.ndarray]:
    """ids_NK and their masses; repeated ids that fill a row of a sampled target have none."""
    if isinstance(teacher, TopKTarget):
        return teacher.ids_NK.cpu().numpy(), teacher.log_probs_NK.exp().cpu().numpy()
    return teacher.ids_NK.cpu().numpy(), teacher.weights_NK.cpu().numpy()


def _next_rows(teacher: Target, rows_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept ids and masses of these rows; of a dense target, the most likely ones."""
    assert not isinstance(teacher, FrozenHeadTarget), "of a head whose ids are the teacher's"
    if not isinstance(teacher, DenseTarget):
        ids_NK, mass_NK = _kept(teacher)
        return ids_NK[rows_U], mass_NK[rows_U]
    chosen = teacher.log_probs_NV[torch.from_numpy(rows_U).to(teacher.log_probs_NV.device)]
    top = chosen.topk(min(_NEXT, chosen.shape[1]), dim=1)
    return top.indices.cpu().numpy(), top.values.exp().cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of several responses, one after the other.

    Args:
        count: the student's rows.
        common_B: the student's row at each common boundary.
        teacher_B: the teacher's row there.
        previous_B: the student's token before it; −1 at the beginning of a response.
        realised_N: the student's tokens.
        realised_teacher_B: the teacher's token at each common boundary.
        has_next_B: whether the teacher has a further row in that response.
        next_teacher_B: the token of that row; −1 where there is none.
    """

    count: int
    common_B: np.ndarray
    teacher_B: np.ndarray
    previous_B: np.ndarray
    realised_N: np.ndarray
    realised_teacher_B: np.ndarray
    has_next_B: np.ndarray
    next_teacher_B: np.ndarray

    @classmethod
    def of(cls, responses: Sequence[AlignedResponse]) -> _Rows:
        student = [np.asarray(r.student_ids, np.int64) for r in responses]
        teacher = [np.asarray(r.teacher_ids, np.int64) for r in responses]
        start_S = np.cumsum([0, *map(len, student)])
        start_T = np.cumsum([0, *map(len, teacher)])
        common = [r.alignment.common_student_B for r in responses]
        rows = [r.alignment.common_teacher_B.astype(np.int64) for r in responses]
        before = [np.concatenate([[-1], ids[:-1]]) for ids in student]
        after = [np.concatenate([ids[1:], [-1]]) for ids in teacher]
        next_teacher_B = _chosen(after, rows)
        return cls(
            count=int(start_S[-1]),
            common_B=np.concatenate([b + s for b, s in zip(common, start_S, strict=False)]),
            teacher_B=np.concatenate([b + s for b, s in zip(rows, start_T, strict=False)]),
            previous_B=_chosen(before, common),
            realised_N=np.concatenate(student),
            realised_teacher_B=_chosen(teacher, rows),
            has_next_B=next_teacher_B >= 0,
            next_teacher_B=next_teacher_B,
        )


def _chosen(values: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([value[place] for value, place in zip(values, places, strict=True)])
