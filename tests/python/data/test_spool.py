"""Spooled sequences are the list of them, wherever they are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from thack.data import spool
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.data.spool import SpooledSequences


def sequences(count: int) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    return [
        TokenSequence(
            example=i,
            sample=i % 3,
            prompt_id=f"é {i}",
            prompt_ids=rng.integers(0, 99, 1 + i % 5, dtype=np.int32),
            response_ids=rng.integers(0, 99, i % 7, dtype=np.int32),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("in_memory", [0, 700, 1 << 23])
def test_it_is_the_list(tmp_path: Path, in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_IN_MEMORY", in_memory)
    monkeypatch.setattr(spool, "_BLOCK", 200)
    given, found = sequences(40), SpooledSequences(tmp_path)
    for number, s in enumerate(given):
        found.append(s)
        assert found[number].prompt_id == s.prompt_id  # also while more is added
    assert len(found) == 40
    assert found.lengths.tolist() == [len(s.prompt_ids) + len(s.response_ids) for s in given]
    assert data_fingerprint(found) == data_fingerprint(given)
    for ours, theirs in zip([*found[3:30:7], found[-1]], [*given[3:30:7], given[-1]], strict=True):
        assert (ours.example, ours.sample, ours.position) == (theirs.example, theirs.sample, None)
        assert np.array_equal(ours.prompt_ids, theirs.prompt_ids)
        assert ours.response_ids.dtype == np.int32
    with pytest.raises(IndexError):
        found[40]
    assert not list(tmp_path.iterdir())  # the file has no name
