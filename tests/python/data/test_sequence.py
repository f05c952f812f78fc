"""Token sequences: which of them are of one example, and what their names are."""

from __future__ import annotations

import numpy as np

from thack.data.sequence import TokenSequence, repeats


def test_repeats_count_the_sequences_of_one_example() -> None:
    ids = np.array([1], np.int32)
    sequences = [
        TokenSequence(example=example, prompt_id=str(example), prompt_ids=ids, response_ids=ids)
        for example in (4, 7, 4, 4, 0, 7)
    ]
    assert repeats(sequences).tolist() == [0, 0, 1, 2, 0, 1]
    assert repeats([]).tolist() == []
