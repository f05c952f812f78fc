"""The names of random numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thack.data.sequence import TokenSequence
from thack.targets import keys


def sequence(example: int, length: int, sample: int = 0) -> TokenSequence:
    return TokenSequence(
        example=example,
        prompt_id=f"p{example}",
        prompt_ids=np.array([1], np.int32),
        response_ids=np.arange(length, dtype=np.int32),
        sample=sample,
    )


def test_the_key_of_a_row_names_its_token() -> None:
    data = [sequence(7, 3), sequence(7, 1, sample=2), sequence(4, 2)]
    expected = [[0, s.example, s.sample, t] for s in data for t in range(len(s.response_ids))]
    assert keys.row_keys(data).tolist() == expected
    assert keys.row_keys(data, 5).tolist() == [[5, *row[1:]] for row in expected]
    assert keys.row_keys([replace(data[0], position=9)]).tolist() == expected[:3]  # the place in a cache names nothing


def test_the_names_are_frozen() -> None:
    """They seed what was written; a changed number is another cache, another run."""
    streams = {stream.name: int(stream) for stream in keys.Stream}
    assert streams == {"POSITIONS": 0, "BATCHES": 1, "DROPOUT": 2, "MONITORS": 3, "RESPONSE_SETS": 4}
    assert (keys.OFFLINE_EPOCH, keys.EVALUATION_STREAM) == (0, 3)
    assert (keys.MULTINOMIAL_SAMPLE, keys.MONITOR_SAMPLE) == (1 << 31, (1 << 32) - 1)
    assert [keys.training_epoch(epoch) for epoch in (0, 1)] == [1, 2]


def test_run_words_are_those_of_the_named_counter() -> None:
    expected = np.random.Philox(key=3, counter=[0, 0, 5, 4]).random_raw(6)
    assert np.array_equal(keys.run_words(3, keys.Stream.RESPONSE_SETS, 5, count=6), expected)
    one = np.random.Philox(key=3, counter=[7, 1, 5, 2]).random_raw(1)
    assert np.array_equal(keys.run_words(3, keys.Stream.DROPOUT, 5, rank=1, part=7), one)
