"""A tokenizer, pairs, and a bank that plain transformers models wrote."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from thack.corpus import Record
from thack.metrics import PromptBank
from thack.models.tokenizer import Tokenizer

from .small import llama


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def read(path): read the file at path"] * 3, 264)


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)", response=f"reads {i}") for i in range(10)]


@pytest.fixture(scope="session")
def bank(records: list[Record], tokenizer: Tokenizer) -> PromptBank:
    """Oracle seed 7, teacher seed 8."""
    return PromptBank.from_records(records).with_responses(
        llama(8), oracle=llama(7), human=True, tokenizer=tokenizer, max_new_tokens=8
    )
