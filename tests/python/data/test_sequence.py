"""Token sequences: which of them are of one example, what their names are, and what their fingerprint depends on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thack.data.sequence import TokenSequence, cache_positions, data_fingerprint, repeats
from thack.errors import UsageError

IDS = np.array([1, 2], np.int32)


def sequence(**changes: object) -> TokenSequence:
    plain = TokenSequence(example=0, prompt_id="a", prompt_ids=IDS, response_ids=IDS, sample=1, position=3)
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_repeats_count_the_sequences_of_one_example() -> None:
    sequences = [sequence(example=example) for example in (4, 7, 4, 4, 0, 7)]
    assert repeats(sequences).tolist() == [0, 0, 1, 2, 0, 1]
    assert repeats([]).tolist() == []


def test_another_response_is_in_no_cache() -> None:
    new = sequence().with_response(np.array([9], np.int32), 5)
    assert (new.response_ids.tolist(), new.sample, new.position) == ([9], 5, None)
    assert (new.example, new.prompt_id) == (0, "a")


def test_positions_are_those_of_a_cache() -> None:
    assert cache_positions([sequence(), sequence(position=0)]) == [3, 0]
    with pytest.raises(UsageError, match="prompt a: the sequence was not read from a cache"):
        cache_positions([sequence(position=None)])


OTHERS: dict[str, dict[str, object]] = {
    "prompt": {"prompt_ids": np.array([1, 3], np.int32)},
    "response": {"response_ids": np.array([1], np.int32)},
    "name": {"prompt_id": "b"},
    "sample": {"sample": 2},
    "boundary": {"prompt_ids": np.array([1], np.int32), "response_ids": np.array([2, 1, 2], np.int32)},
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_fingerprint_is_of_ids_and_names(case: str) -> None:
    assert data_fingerprint([sequence()]) != data_fingerprint([sequence(**OTHERS[case])])


def test_a_fingerprint_is_not_of_places() -> None:
    moved = sequence(example=9, position=None, prompt_ids=IDS.astype(np.int64))
    assert data_fingerprint([sequence()]) == data_fingerprint([moved])
    two = [sequence(), sequence(prompt_id="b")]
    assert data_fingerprint(two) != data_fingerprint(two[::-1])
