"""Prompts are found by hashes of their ids, as a dictionary of the ids finds them, in a few bytes each."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from thack.config import DataSettings, DistillSettings
from thack.data import selection, spool
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.errors import CacheError
from thack.training import across, prompts
from thack.training.across import _Prompts
from thack.training.prompts import PromptPlaces, prompt_hashes


def test_places_are_those_of_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    names = [f"é {n}" for n in rng.integers(0, 300, 400)]
    wanted: dict[str, int] = {}
    for place, name in enumerate(names):
        wanted.setdefault(name, place)
    asked = [f"é {n}" for n in range(320)]
    places = PromptPlaces(prompt_hashes(names))
    assert places.of(asked).tolist() == [wanted.get(name, -1) for name in asked]
    assert places.of([]).tolist() == [] and PromptPlaces(prompt_hashes([])).of(["a"]).tolist() == [-1]


def test_a_students_own_prompts_are_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each of the prompts of a cache of another tokenizer: the hash, its place, and where its ids are."""
    monkeypatch.setattr(selection, "_IN_MEMORY", 256)
    monkeypatch.setattr(spool, "_IN_MEMORY", 0)
    tokenizer = Tokenizer.train(["read 0123456789"] * 3, 260)
    held = []
    for count in (600, 1800):
        path = tmp_path / f"{count}.jsonl"
        path.write_text("".join(f'{{"prompt": "read {n:09d}", "id": "prompt {n:09d}"}}\n' for n in range(count)))
        stream = DataStream(DataSettings(path=str(path)), tokenizer, need_response=False)
        tracemalloc.start()
        own = _Prompts(stream, DistillSettings(out=tmp_path))
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert tokenizer.decode(own(f"prompt {count - 1:09d}")) == f"read {count - 1:09d}"
        with pytest.raises(CacheError, match="is in the cache, and not in the data"):
            own(f"prompt {count:09d}")
    assert held[1] - held[0] < 40 * 1200


def test_another_prompt_of_the_same_hash_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (across, prompts):
        monkeypatch.setattr(module, "prompt_hashes", lambda names: np.array([7 for _ in names], dtype=np.uint64))
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "read 0", "id": "a"}\n')
    tokenizer = Tokenizer.train(["read 0123456789"] * 3, 260)
    stream = DataStream(DataSettings(path=str(path)), tokenizer, need_response=False)
    own = _Prompts(stream, DistillSettings(out=tmp_path))
    assert tokenizer.decode(own("a")) == "read 0"
    with pytest.raises(CacheError, match="prompt b is in the cache, and not in the data"):
        own("b")
