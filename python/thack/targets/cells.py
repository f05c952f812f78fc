"""What is known of a teacher about a student's rows, where the two have different tokenizers.

The vocabularies are grouped into cells, which both share (see `docs/concepts/cells.md`). At a row where a token of both
begins, the target holds the teacher's mass of each cell, and weights of the student's ids inside a cell. At any other
row it holds weights alone.

N student rows, V student ids, C cells, K kept cells of a row, W weighted ids of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thack.kernels.types import CellMembers
from thack.targets.types import Packed


class StudentCells:
    """Which of a student's ids are in which cell.

    Args:
        cell_V: int [V] the cell of each id; −1: the id is no text, and has no part in the student's distribution.
        num_cells: cells are 0 … num_cells − 1; a cell may have no id of the student's.
    """

    def __init__(self, cell_V: Tensor, num_cells: int) -> None:
        cell_V = cell_V.long()
        self.num_cells = num_cells
        self._tensors = {cell_V.device: _tensors(cell_V, num_cells)}

    def on(self, device: torch.device) -> CellMembers:
        """Its tensors on a device; moved there once."""
        if device not in self._tensors:
            first = next(iter(self._tensors.values()))
            self._tensors[device] = _tensors(first.cell_V.to(device), self.num_cells)
        return self._tensors[device]


def _tensors(cell_V: Tensor, num_cells: int) -> CellMembers:
    size_C = torch.bincount(cell_V[cell_V >= 0], minlength=num_cells)
    order = torch.argsort(cell_V, stable=True)
    outside = int((cell_V < 0).sum())
    return CellMembers(
        cell_V=cell_V,
        members=order[outside:].contiguous(),
        start_C=size_C.cumsum(0) - size_C,
        size_C=size_C,
        outside=order[:outside].contiguous(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTarget(Packed):
    """The teacher's mass of cells, and weights of ids inside them, for rows of a student with another tokenizer.

    Args:
        student: the student's cells.
        mass_NK: float32, P of each kept cell (dense: [N, C], of every cell). Cells without an id of the student's have
            mass 0. A row where no token of the teacher's begins has no mass at all.
        cells_NK: int64, distinct in a row; −1 where there is none (its mass is 0). None: `mass_NK` is of every cell.
        tail_N: float32, mass of all cells that are not kept, as one outcome; 0 where nothing is left or known.
        ids_NW: int64, the student's ids that have a weight.
        weights_NW: float32, w.
        is_inside_N: bool, the row stands inside a token of the teacher's: w is of the whole distribution there.
        vocab_size: V.

    Example:
        >>> cells, label = StudentCells(torch.tensor([0, 0, 1]), 2), torch.tensor([[1]])
        >>> target = CellTarget(
        ...     student=cells, mass_NK=torch.ones(1, 2) / 2, cells_NK=None, tail_N=torch.zeros(1), ids_NW=label,
        ...     weights_NW=torch.ones(1, 1), is_inside_N=torch.tensor([False]), vocab_size=3)
        >>> len(target)
        1
    """

    student: StudentCells
    mass_NK: Tensor
    cells_NK: Tensor | None
    tail_N: Tensor
    ids_NW: Tensor
    weights_NW: Tensor
    is_inside_N: Tensor
    vocab_size: int
    realised_logprob_N: Tensor | None = field(default=None)
