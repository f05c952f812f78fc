"""Two encodings of one response beside each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.cross_tokenizer import Bpe, align, read_bpe
from thack.errors import MismatchError

from .small import CODE, TEXT, small

TEACHER, STUDENT = small(300), small(290, code=True)
THEIRS, OURS = read_bpe(TEACHER), read_bpe(STUDENT)


def boundaries(ids: list[int], bpe: Bpe) -> list[int]:
    """Where each token begins; an end counts one byte."""
    sizes = [len(bpe.bytes_V[i] or b"?") for i in ids]
    return [sum(sizes[:n]) for n in range(len(sizes))]


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet=st.sampled_from(TEXT + CODE), max_size=60), st.booleans())
def test_rows_are_those_of_the_bytes(text: str, ends: bool) -> None:
    theirs = TEACHER.encode(text).tolist() + [TEACHER.eos_id] * ends
    ours = STUDENT.encode(text).tolist() + [STUDENT.eos_id] * ends
    found = align(theirs, ours, THEIRS, OURS)
    begins, starts = boundaries(theirs, THEIRS), boundaries(ours, OURS)
    assert [begins[row] + offset for row, offset in zip(found.teacher_row_N, found.offset_N, strict=True)] == starts
    assert [starts[n] for n in found.common_student_B] == sorted(set(begins) & set(starts))
    assert [begins[n] for n in found.common_teacher_B] == sorted(set(begins) & set(starts))
    assert found.num_bytes == len(text.encode())
    assert found.num_teacher_rows == len(theirs)


def test_a_character_may_be_split() -> None:
    text = "日".encode()
    by_byte = [THEIRS.id_of[text[i : i + 1]] for i in range(3)]
    found = align(by_byte, STUDENT.encode("日"), THEIRS, OURS)
    assert found.num_bytes == 3
    assert found.common_student_B[0] == 0


def test_equal_encodings_meet_everywhere() -> None:
    ids = TEACHER.encode(TEXT)
    found = align(ids, ids, THEIRS, THEIRS)
    assert np.array_equal(found.teacher_row_N, np.arange(len(ids)))
    assert found.common_share == 1.0


def test_other_bytes_are_refused() -> None:
    with pytest.raises(MismatchError, match=r"not of the same bytes: b'cat' and b'car' at byte 2"):
        align(TEACHER.encode("cat"), STUDENT.encode("car"), THEIRS, OURS)
    with pytest.raises(MismatchError, match="not of the same bytes"):
        align([*TEACHER.encode("cat"), TEACHER.eos_id], STUDENT.encode("cat"), THEIRS, OURS)
    with pytest.raises(MismatchError, match="has no text and no role"):
        align([TEACHER.pad_id], STUDENT.encode("cat"), THEIRS, OURS)


def test_nothing_is_aligned_with_nothing() -> None:
    found = align([], [], THEIRS, OURS)
    assert len(found.teacher_row_N) == found.num_bytes == 0
    assert found.common_share == 0.0
