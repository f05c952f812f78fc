"""`thack corpus`: three files, no prompt in two of them, and nothing of anybody else's overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from thack.data import read_records, stdlib_records
from thack.data.export import HELD_OUT, PAIRS, PROMPTS, export_corpus
from thack.errors import UsageError


def test_the_files_are_disjoint_and_hold_the_whole_corpus(tmp_path: Path) -> None:
    counts = export_corpus(tmp_path / "data", "docstring", held_out=100)
    read = {name: read_records(tmp_path / "data" / name) for name in counts}
    ids = {name: {record.prompt_id for record in records} for name, records in read.items()}
    assert set(ids) == {HELD_OUT, PAIRS, PROMPTS}
    assert len(ids[HELD_OUT]) == 100
    assert sum(map(len, ids.values())) == len(set().union(*ids.values()))
    assert sorted((r.prompt, r.response or "") for records in read.values() for r in records) == sorted(
        (r.prompt, r.response or "") for r in stdlib_records("docstring")
    )
    assert all(record.response for name in (HELD_OUT, PAIRS) for record in read[name])


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b", "b"):
        export_corpus(tmp_path / name, "docstring", held_out=10)
    for name in (HELD_OUT, PAIRS, PROMPTS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="did not write"):
        export_corpus(tmp_path, "docstring", held_out=10)
    assert (tmp_path / "pairs.jsonl").read_text() == "mine"


def test_too_many_held_out_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to train on"):
        export_corpus(tmp_path, "docstring", held_out=1_000_000)
