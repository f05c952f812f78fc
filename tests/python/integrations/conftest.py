"""A tokenizer, pairs, and an evaluation set that plain transformers models wrote."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from thack.data import Record
from thack.data.tokenizer import Tokenizer
from thack.evaluation import EvalSet, References

from .small import llama


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def read(path): read the file at path"] * 3, 264)


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)", response=f"reads {i}") for i in range(10)]


@pytest.fixture(scope="session")
def eval_set(records: list[Record], tokenizer: Tokenizer) -> EvalSet:
    """Oracle seed 7, teacher seed 8."""
    references = References.of(teacher=llama(8), oracle=llama(7), human=True, tokenizer=tokenizer)
    return EvalSet.from_records(records).with_responses(references, max_new_tokens=8)
