"""Two encodings of one response, laid beside each other by their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thack.cross_tokenizer.bpe import Bpe
from thack.cross_tokenizer.cells import role_map
from thack.errors import MismatchError


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Where each student row stands in the teacher's encoding.

    Row n of either encoding predicts its token n.

    Args:
        teacher_row_N: int32 [student rows] the teacher's row whose token holds the byte at which this row's
            token begins.
        offset_N: int32 [student rows] bytes of that teacher token before it: 0 at a boundary of both.
        num_teacher_rows: number of the teacher's rows.
        num_bytes: bytes of text; ends have none.
    """

    teacher_row_N: np.ndarray
    offset_N: np.ndarray
    num_teacher_rows: int
    num_bytes: int

    @property
    def is_common_N(self) -> np.ndarray:
        """bool [student rows]: the row stands at a token boundary of both."""
        found: np.ndarray = self.offset_N == 0
        return found

    @property
    def common_student_B(self) -> np.ndarray:
        """int64 [boundaries] the student's row at each common boundary."""
        return np.flatnonzero(self.is_common_N)

    @property
    def common_teacher_B(self) -> np.ndarray:
        """int32 [boundaries] the teacher's row at each common boundary."""
        found: np.ndarray = self.teacher_row_N[self.is_common_N]
        return found

    @property
    def common_share(self) -> float:
        """Common boundaries, as a share of the student's rows."""
        return float(self.is_common_N.mean()) if len(self.offset_N) else 0.0


def align(
    teacher_ids: Sequence[int] | np.ndarray, student_ids: Sequence[int] | np.ndarray, teacher: Bpe, student: Bpe
) -> Alignment:
    """Align by bytes. Ends are aligned by role: each counts as one unit, which both must have at the same place.

    Args:
        teacher_ids: the response as cached.
        student_ids: the student's encoding of the same bytes.
        teacher: the teacher's tokenizer.
        student: the student's.

    Raises:
        MismatchError: the bytes or the ends differ, or an id has neither text nor role.
    """
    roles = role_map(teacher, student)
    theirs = [_unit(int(i), teacher, {v: roles[v] for v in roles}) for i in teacher_ids]
    ours = [_unit(int(i), student, {u: u for u in roles.values()}) for i in student_ids]
    if _joined(theirs) != _joined(ours):
        raise MismatchError(_difference(theirs, ours), hint="the student must encode the bytes of the response")
    starts_T, starts_S = _starts(theirs), _starts(ours)
    rows = (np.searchsorted(starts_T, starts_S, side="right") - 1).astype(np.int32)
    return Alignment(
        teacher_row_N=rows,
        offset_N=(starts_S - starts_T[rows]).astype(np.int32) if len(rows) else rows,
        num_teacher_rows=len(theirs),
        num_bytes=sum(len(unit) for unit in theirs if isinstance(unit, bytes)),
    )


def _unit(i: int, bpe: Bpe, roles: dict[int, int]) -> bytes | int:
    """The bytes of an id, or the student's id of its role."""
    if i in roles:
        return roles[i]
    token = bpe.bytes_V[i] if 0 <= i < bpe.size else None
    if token is None:
        raise MismatchError(f"id {i} has no text and no role", hint="responses must hold text, and an end")
    return token


def _joined(units: list[bytes | int]) -> list[bytes | int]:
    """Adjacent text in one piece, ends apart."""
    found: list[bytes | int] = []
    for unit in units:
        if isinstance(unit, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += unit
        elif unit != b"":
            found.append(unit)
    return found


def _starts(units: list[bytes | int]) -> np.ndarray:
    sizes = [len(unit) if isinstance(unit, bytes) else 1 for unit in units]
    return np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0, np.int64)


def _difference(theirs: list[bytes | int], ours: list[bytes | int]) -> str:
    a, b = (b"".join(u if isinstance(u, bytes) else b"<%d>" % u for u in units) for units in (theirs, ours))
    place = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    near = slice(max(0, place - 10), place + 10)
    return f"teacher and student tokens are not of the same bytes: {a[near]!r} and {b[near]!r} at byte {place}"
