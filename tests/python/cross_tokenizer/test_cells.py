"""First student tokens, settledness, cells and pair tests, against the `tokenizers` library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.cross_tokenizer import Cells, build_cells, cells_file, kept_cells, load_cells, read_bpe
from thack.cross_tokenizer.encoder import Encoder
from thack.data.tokenizer import Tokenizer
from thack.errors import CacheError, MismatchError

from .small import CODE, TEXT, small

TOKENIZERS = [small(290), small(320, code=True), small(320, digits=True)]


@pytest.fixture(scope="module")
def cells() -> Cells:
    return build_cells(read_bpe(small(300)), read_bpe(small(290, code=True)))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from(TEXT + CODE), max_size=40), st.sampled_from(TOKENIZERS))
def test_encoder_is_that_of_the_library(text: str, tokenizer: Tokenizer) -> None:
    assert Encoder(read_bpe(tokenizer)).encode(text.encode()) == tokenizer.encode(text).tolist()


def test_every_byte_of_a_character_can_stand_alone() -> None:
    encoder = Encoder(read_bpe(small(290)))
    for data in ("é".encode()[:1], "日".encode()[1:], b"\xff\x00a"):
        assert b"".join(encoder.bpe.bytes_V[i] or b"" for i in encoder.encode(data)) == data


def test_equal_tokenizers_are_settled_and_f_is_the_identity() -> None:
    bpe = read_bpe(small(300))
    found = build_cells(bpe, bpe)
    text = [i for i, token in enumerate(bpe.bytes_V) if token]
    assert found.first_V_T[text].tolist() == text
    assert found.settled(np.array([*text, bpe.roles["eos"]])).all()
    assert np.array_equal(found.cell_teacher_V_T, found.cell_student_V_S)
    assert found.num_cells == len(text) + 1  # and EOS


def test_cells_hold_prefixes(cells: Cells) -> None:
    """The string of a cell is the beginning of every string in it, and both have it."""
    for cell in range(cells.num_cells):
        theirs = [cells.teacher.bpe.bytes_V[v] for v in np.flatnonzero(cells.cell_teacher_V_T == cell)]
        ours = [cells.student.bpe.bytes_V[u] for u in np.flatnonzero(cells.cell_student_V_S == cell)]
        if None in theirs:
            assert theirs == ours == [None]  # EOS
            continue
        shortest = min((t for t in theirs if t), key=len)
        assert shortest == min((t for t in ours if t), key=len)
        assert all(t and t.startswith(shortest) for t in theirs + ours)


def test_ids_that_are_no_text_have_no_cell(cells: Cells) -> None:
    pad = small(300).pad_id
    assert cells.first_V_T[pad] == cells.cell_teacher_V_T[pad] == cells.cell_student_V_S[pad] == -1
    assert not cells.settled(np.array(pad))
    eos = small(300).eos_id
    assert cells.first_V_T[eos] == eos
    assert cells.settled(np.array(eos))


def test_what_is_saved_is_loaded(cells: Cells, tmp_path: Path) -> None:
    path, teacher, student = tmp_path / "cells.npz", cells.teacher.bpe, cells.student.bpe
    cells.save(path)
    found = load_cells(path, teacher, student)
    assert np.array_equal(found.first_V_T, cells.first_V_T)
    ids = np.arange(teacher.size)
    assert np.array_equal(found.settled(ids), cells.settled(ids))
    assert found.facts == cells.facts
    with pytest.raises(MismatchError, match="of other tokenizers"):
        load_cells(path, student, teacher)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CacheError, match="is damaged"):
        load_cells(path, teacher, student)


def test_a_comparison_is_kept_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    teacher, student = read_bpe(small(290)), read_bpe(small(290, code=True))
    first = kept_cells(teacher, student)
    path = cells_file(teacher, student)
    assert path.parent == tmp_path / "thack" / "cells"
    again = kept_cells(teacher, student)
    assert again.facts == first.facts  # the time that it took too: it was read
    path.write_bytes(b"damaged")
    assert np.array_equal(kept_cells(teacher, student).first_V_T, first.first_V_T)
    assert load_cells(path, teacher, student).facts != first.facts


def test_a_place_that_cannot_be_written_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = kept_cells(read_bpe(small(290)), read_bpe(small(290, code=True)))
    assert found.num_cells > 0
