"""Batches by length hold every sequence once, in an order that lengths and the given order decide."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thack.data.batching import by_length
from thack.data.sequence import TokenSequence


def sequences(lengths: list[int]) -> list[TokenSequence]:
    return [
        TokenSequence(
            example=i,
            prompt_id=str(i),
            prompt_ids=np.zeros(1, np.int32),
            response_ids=np.zeros(length - 1, np.int32),
        )
        for i, length in enumerate(lengths)
    ]


@given(st.lists(st.integers(1, 9)), st.integers(1, 5), st.booleans())
def test_every_sequence_once_by_length_ties_in_order(lengths: list[int], size: int, longest_first: bool) -> None:
    batches = list(by_length(sequences(lengths), size, longest_first=longest_first))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    found = [s.example for batch in batches for s in batch]
    sign = -1 if longest_first else 1
    assert found == sorted(range(len(lengths)), key=lambda i: (sign * lengths[i], i))
