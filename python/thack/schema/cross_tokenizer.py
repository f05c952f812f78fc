"""Facts of a comparison of two vocabularies, as they stand in its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsFacts:
    """Of which tokenizers cells are.

    Args:
        teacher: fingerprint of the teacher's tokenizer.
        student: fingerprint of the student's.
        num_cells: number of cells.
        cpu_s: processor time that the comparison took.
    """

    SCHEMA: ClassVar[int] = 1

    teacher: str
    student: str
    num_cells: int
    cpu_s: float = 0.0
