"""An evaluation by models on the device against the same on the CPU."""

from __future__ import annotations

import pytest
import torch

from thack.config import EvaluationSettings
from thack.data.records import Record
from thack.evaluation import EvalSet, Evaluator, References
from thack.evaluation.divergences import three_divergences

from .host import HostCopies
from .small import VOCAB, model

PROMPTS = ["def open", "def write(path)", "class Queue", "read the", "first", "file at path"]


def held_out() -> EvalSet:
    """Responses by the CPU's models, so that both sides are measured on one text."""
    records = [Record(prompt_id=f"p{i}", prompt=text, response="the file") for i, text in enumerate(PROMPTS)]
    references = References(teacher=model(1), oracle=model(2), human=True)
    return EvalSet.from_records(records).with_responses(references, max_new_tokens=8)


def test_the_same_columns(cuda: torch.device) -> None:
    """Of fixed responses: those of the student itself may differ in a draw."""
    prompts, settings = held_out(), EvaluationSettings(batch_size=4, bootstrap=20, student_samples=False)
    found = []
    for device in ("cpu", cuda):
        evaluator = Evaluator(prompts, References(teacher=model(1, device), oracle=model(2, device)), settings)
        with HostCopies(4 * VOCAB):  # a batch has four rows of logits, at least
            found.append(evaluator.evaluate(model(0, device)).named())
            assert evaluator.evaluate(model(0, device)).named() == found[-1]  # with references from memory
    expected, ours = found
    assert ours.keys() == expected.keys()
    assert {name.split("/")[0] for name in ours} >= {"golden", "proxy", "human", "health"}
    for name, value in expected.items():
        # Some columns of health count tokens, of which there are few.
        assert ours[name] == pytest.approx(value, rel=1e-2, abs=0.05 if name.startswith("health") else 1e-2), name


def test_the_student_writes(cuda: torch.device) -> None:
    settings = EvaluationSettings(batch_size=4, bootstrap=20)
    prompts = held_out()
    evaluator = Evaluator(prompts, References(teacher=model(1, cuda), oracle=model(2, cuda)), settings)
    with HostCopies(4 * VOCAB):
        found = evaluator.evaluate(model(0, cuda))
    expected = Evaluator(prompts, References(teacher=model(1), oracle=model(2)), settings).evaluate(model(0))
    assert found.named().keys() == expected.named().keys() and found.generated_tokens > 0
    assert found.per_prompt.keys() == expected.per_prompt.keys()


def test_three_divergences(cuda: torch.device) -> None:
    """Few waits for the device, however many rows: on the CPU a chunk of them fits a cache, here it fills the card."""
    generator = torch.Generator().manual_seed(0)
    pair = [torch.log_softmax(3 * torch.randn(60, 30_000, generator=generator), 1) for _ in range(2)]
    pair[0][:, :50] = pair[1][:, 20:70] = float("-inf")
    there = [x.to(cuda) for x in pair]
    with HostCopies(30_000) as seen:
        found = three_divergences(*there)
    assert seen.waits <= 4
    torch.testing.assert_close(found.cpu(), three_divergences(*pair), rtol=1e-4, atol=1e-5)
