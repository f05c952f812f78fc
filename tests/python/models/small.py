"""One tokenizer, and random sequences of its ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer

TEXTS = ["def open(path): Open a file and return it.", "class Queue: A simple first in, first out queue."]


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, 280)


def make_sequences(lengths: Sequence[tuple[int, int]], *, size: int = 270, seed: int = 0) -> list[TokenSequence]:
    """Of the given (prompt, response) lengths."""
    rng = np.random.default_rng(seed)
    return [
        TokenSequence(
            example=i,
            prompt_id=f"p{i}",
            prompt_ids=rng.integers(2, size, prompt).astype(np.int32),
            response_ids=rng.integers(2, size, response).astype(np.int32),
        )
        for i, (prompt, response) in enumerate(lengths)
    ]
