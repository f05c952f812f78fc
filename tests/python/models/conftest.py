"""Tiny models and sequences for tests of models."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer

from . import small


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return small.tokenizer()


@pytest.fixture(scope="session")
def make_sequences() -> Callable[..., list[TokenSequence]]:
    return small.make_sequences
