"""Responses that an evaluation keeps: token by token, they add up to what the metric counts."""

from __future__ import annotations

import numpy as np
import pytest

from thack.config import EvaluationSettings
from thack.data import Record
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.references import References
from thack.evaluation.samples import pieces
from thack.runtime.process_group import ALONE
from thack.schema.metrics import MetricName, Responses, Role
from training.small import model, tokenizer


@pytest.mark.parametrize(("writer", "responses"), [(Role.TEACHER, "reference_sampled"), (None, "student_sampled")])
def test_kept_tokens_add_up_to_the_metric(writer: Role | None, responses: Responses) -> None:
    teacher, student = model(1), model(2)
    records = [Record(prompt_id=name, prompt=f"def {name}(x)") for name in ("read", "path", "file")]
    eval_set = EvalSet.from_records(records).with_responses(References(teacher=teacher), max_new_tokens=6)
    evaluator = Evaluator(eval_set, References(teacher=teacher), EvaluationSettings(kept_prompts=2))
    found = evaluator.evaluate(student)
    assert found.kept is not None
    rows = [row for row in found.kept.rows(7, eval_set.ids, tokenizer(), ALONE) if row.writer == writer]
    assert [row.prompt_id for row in rows] == ["read", "path"] and {row.reference for row in rows} == {Role.TEACHER}
    sums = found.per_prompt[MetricName(role=Role.TEACHER, responses=responses, reduction=None)]
    for place, row in enumerate(rows):
        assert len(row.nats) == len(row.tokens) == sums.tokens_P[place]
        assert sum(row.nats) == pytest.approx(sums.nats_P[place], abs=1e-3)
    # Every forward of the teacher is counted: its own responses once, the student's once.
    tokens = sums.tokens_P.sum() if writer is None else 0
    fixed = sum(map(len, eval_set.responses[Role.TEACHER]))
    assert found.scored_tokens >= fixed + tokens
    again = evaluator.evaluate(student)
    assert again.scored_tokens == again.generated_tokens, "what the teacher says of its own responses is in memory"


@pytest.mark.parametrize("text", ["def read(path): read the file", "naïve — 日本語 🙂", "a\n\n  b"])
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    ids = tokenizer().encode(text).tolist()
    found = pieces(tokenizer(), ids)
    assert len(found) == len(ids) and "".join(found) == tokenizer().text(ids)
    assert pieces(tokenizer(), []) == [] and np.array(ids).dtype.kind == "i"
