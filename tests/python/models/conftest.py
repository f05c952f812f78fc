"""Tiny models and sequences for tests of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer

TEXTS = ["def open(path): Open a file and return it.", "class Queue: A simple first in, first out queue."]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, 280)


@pytest.fixture(scope="session")
def make_sequences() -> Callable[..., list[TokenSequence]]:
    """Random sequences of the given (prompt, response) lengths."""

    def make(lengths: Sequence[tuple[int, int]], *, size: int = 270, seed: int = 0) -> list[TokenSequence]:
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

    return make
