"""The manifest of an evaluation set and evaluation.json: written and read as typed values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from thack.errors import DataError
from thack.schema.evaluation import EvalSetManifest, EvalSetOrigin, EvaluatedModel, EvaluatedSet, EvaluationResult
from thack.schema.metric_rows import PerPromptRow, PromptSums
from thack.schema.metrics import GOLDEN, Role

ORIGINS = {
    "{}": EvalSetOrigin(),
    '{"tokenizer": "t", "dropped_prompts": 2, "oracle": "o", "teacher": "a", "seed": 3, "max_new_tokens": 9}': (
        EvalSetOrigin(
            tokenizer="t", dropped_prompts=2, writers={Role.ORACLE: "o", Role.TEACHER: "a"}, seed=3, max_new_tokens=9
        )
    ),
    '{"tokenizer": "t", "dropped_prompts": 0, "human": "responses of the file", "dropped_without_response": 1, '
    '"seed": 0, "max_new_tokens": 9}': EvalSetOrigin(
        tokenizer="t", dropped_without_response=1, seed=0, max_new_tokens=9
    ),
}


@pytest.mark.parametrize("text", ORIGINS)
def test_an_origin_is_read_as_it_is_written(text: str) -> None:
    assert json.dumps(ORIGINS[text].dump()) == text
    assert EvalSetOrigin.parse(json.loads(text)) == ORIGINS[text]


def test_a_manifest_survives_json() -> None:
    manifest = EvalSetManifest(prompts=4, fingerprint="sha256:0", origin=EvalSetOrigin(tokenizer="t", seed=1))
    assert EvalSetManifest.parse(json.loads(json.dumps(manifest.dump()))) == manifest


@pytest.mark.parametrize("changes", [{"kind": "cache"}, {"format": 2}, {"origin": None}, {"prompts": "4"}])
def test_what_is_no_evaluation_set_is_refused(changes: dict[str, object]) -> None:
    manifest = EvalSetManifest(prompts=4, fingerprint="sha256:0", origin=EvalSetOrigin())
    with pytest.raises(DataError, match="eval/ is not an evaluation set of format 1"):
        EvalSetManifest.parse(manifest.dump() | changes, "eval/")


def test_an_evaluation_is_plain_values() -> None:
    sums = PromptSums(nats_P=np.array([1.5, 0.5]), tokens_P=np.array([2, 3]))
    result = EvaluationResult(
        models={"student": EvaluatedModel(directory="s", origin="s", fingerprint="f")},
        eval_set=EvaluatedSet(fingerprint="e", prompts=2, origin=EvalSetOrigin()),
        seed=0,
        columns={str(GOLDEN): 0.4},
        per_prompt=PerPromptRow(step=None, metrics={GOLDEN.per_prompt: sums}),
    )
    document = json.loads(json.dumps(result.dump()))
    assert document["columns"] == {str(GOLDEN): 0.4} and document["schema"] == 1
    assert document["per_prompt"][str(GOLDEN.per_prompt)] == {"nats": [1.5, 0.5], "tokens": [2, 3]}
