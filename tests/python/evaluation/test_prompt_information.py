"""How much of a response's information comes from its prompt, against its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thack.data import Record
from thack.data.sequence import TokenSequence
from thack.errors import MismatchError, UsageError
from thack.evaluation import EvalSet, References
from thack.evaluation.prompt_information import _shuffled, prompt_information
from thack.models.batch import Batch
from thack.models.native.llama import Llama
from thack.schema.evaluation import PromptInformation
from thack.schema.metrics import Role

Cast = tuple[Llama, Llama, Llama]


def written(oracle: Llama, count: int = 6) -> EvalSet:
    records = [Record(prompt_id=f"p{i}", prompt="read the file at path"[: 3 + 2 * i]) for i in range(count)]
    return EvalSet.from_records(records).with_responses(References(oracle=oracle), max_new_tokens=6)


def nats(oracle: Llama, prompt: np.ndarray, response: np.ndarray) -> float:
    """−log p(response | prompt), in float64, one sequence at a time."""
    one = TokenSequence(example=0, prompt_id="", prompt_ids=prompt, response_ids=response)
    with torch.no_grad():
        logits = oracle(Batch.of([one], oracle.device)).double()
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    return -float(log_p[torch.arange(len(response)), torch.from_numpy(response).long()].sum())


def test_after_every_other_prompt_it_is_the_definition(cast: Cast) -> None:
    oracle, _, _ = cast
    eval_set = written(oracle)
    found = prompt_information(oracle, eval_set, shuffles=99)
    prompts, responses = eval_set.prompts, eval_set.responses[Role.ORACLE]
    count, tokens = len(prompts), sum(map(len, responses))
    own = sum(nats(oracle, p, y) for p, y in zip(prompts, responses, strict=True)) / tokens
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    others = sum(nats(oracle, prompts[j], responses[i]) for i, j in pairs) / (count - 1) / tokens
    assert (found.num_prompts, found.num_shuffles) == (count, count - 1)
    assert found.with_prompt == pytest.approx(own, abs=1e-5)
    assert found.without_prompt == pytest.approx(others, abs=1e-5)
    assert found.from_prompt == pytest.approx(others - own, abs=1e-5)
    assert found.share == pytest.approx(1 - own / others, abs=1e-5)
    low, high = found.from_prompt_interval or (np.nan, np.nan)
    assert low < found.from_prompt < high
    assert PromptInformation.parse(found.dump()) == found


def test_equal_prompts_say_nothing(cast: Cast) -> None:
    oracle, _, _ = cast
    eval_set = written(oracle)
    same = replace(eval_set, prompts=(eval_set.prompts[0],) * len(eval_set))
    found = prompt_information(oracle, same)
    assert found.from_prompt == pytest.approx(0, abs=1e-6) and found.share == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_no_response_stands_after_its_own_prompt_or_twice_after_another(count: int) -> None:
    ids = [np.array([i], dtype=np.int32) for i in range(count)]
    rows = [TokenSequence(example=i, prompt_id=str(i), prompt_ids=x, response_ids=x) for i, x in enumerate(ids)]
    shuffled = _shuffled(rows, count - 1, np.random.default_rng(count))
    for i in range(count):
        after = [int(part[i].prompt_ids[0]) for part in shuffled]
        assert sorted([*after, i]) == list(range(count))
        assert all(int(part[i].response_ids[0]) == i for part in shuffled)


def test_what_cannot_be_measured_is_refused(cast: Cast) -> None:
    oracle, teacher, _ = cast
    with pytest.raises(UsageError, match="at least two"):
        prompt_information(oracle, written(oracle, 1))
    with pytest.raises(MismatchError, match="another model"):
        prompt_information(teacher, written(oracle))
