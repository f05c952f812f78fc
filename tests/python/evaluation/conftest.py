"""The cast of every test here."""

from __future__ import annotations

import pytest

from thack.data.tokenizer import Tokenizer
from thack.models.native.llama import Llama

from .small import sharp


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def read(path): read the file at path"] * 3, 264)


@pytest.fixture(scope="module")
def cast(tokenizer: Tokenizer) -> tuple[Llama, Llama, Llama]:
    """oracle (or judge), teacher, student"""
    oracle, teacher, student = (sharp(tokenizer, seed) for seed in range(3))
    return oracle, teacher, student
