"""The examples of the public docstrings, run with three small models and an evaluation set."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from thack.data import Record
from thack.evaluation import EvalSet, References, eval_set, evaluator, golden, proxy, references
from thack.models.native.llama import Llama
from thack.schema import metrics


@pytest.mark.parametrize("module", [eval_set, evaluator, golden, proxy, references])
def test_examples(module: ModuleType, cast: tuple[Llama, Llama, Llama]) -> None:
    oracle, teacher, student = cast
    records = [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)") for i in range(4)]
    given = References(oracle=oracle, teacher=teacher)
    values = {
        "oracle": oracle,
        "teacher": teacher,
        "student": student,
        "eval_set": EvalSet.from_records(records).with_responses(given, max_new_tokens=6),
        "GOLDEN": metrics.GOLDEN,
        "PROXY": metrics.PROXY,
    }
    found = doctest.testmod(module, extraglobs=values)
    assert found.attempted and not found.failed
