"""SmolLM2-135M-Instruct through thack, against transformers' own model, tokenizer and template."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import thack
from thack.config import DataSettings
from thack.data.prepare import prepare
from thack.data.sequence import TokenSequence
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.models.protocol import LanguageModel
from thack.runtime.runlog import read
from thack.targets.types import TopKTarget

from .conftest import CHATS

pytestmark = [pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def theirs(smollm2: Path) -> Iterator[tuple[Any, Any]]:
    """transformers' model, in float32, and its tokenizer."""
    yield (
        transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval(),
        transformers.AutoTokenizer.from_pretrained(smollm2),
    )


@pytest.fixture(scope="module")
def ours(smollm2: Path) -> LanguageModel:
    return load_model(smollm2)


@pytest.fixture(scope="module")
def sequences(chats: Path, ours: LanguageModel) -> list[TokenSequence]:
    return prepare(DataSettings(path=str(chats)), ours.tokenizer, need_response=True).sequences


def whole(s: TokenSequence) -> np.ndarray:
    return np.concatenate([s.prompt_ids, s.response_ids])


@pytest.fixture(scope="module")
def log_probs(theirs: tuple[Any, Any], sequences: list[TokenSequence]) -> list[torch.Tensor]:
    """For each response token transformers' float32 log-probs [R, V], one conversation at a time."""
    found = []
    for s in sequences:
        with torch.no_grad():
            logits = theirs[0](torch.from_numpy(whole(s)).long()[None]).logits[0]
        first = len(s.prompt_ids) - 1
        found.append(logits[first : first + len(s.response_ids)].log_softmax(1))
    return found


@pytest.mark.parametrize("number", range(len(CHATS)))
def test_prompts_and_ends_are_those_of_the_template(
    number: int, theirs: tuple[Any, Any], sequences: list[TokenSequence]
) -> None:
    """A prompt is the rendering up to the assistant's turn; prompt and response are a prefix of the whole one."""
    _, tokenizer = theirs
    messages, s = CHATS[number], sequences[number]
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    rendered = tokenizer.apply_chat_template(messages, return_dict=False)
    assert s.prompt_ids.tolist() == prompt
    assert whole(s).tolist() == rendered[: len(whole(s))]
    assert s.response_ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.decode(rendered[len(whole(s)) :]).strip() == ""


def test_logits_are_those_of_transformers(
    ours: LanguageModel, sequences: list[TokenSequence], log_probs: list[torch.Tensor]
) -> None:
    with torch.no_grad():
        found = ours(Batch.of(sequences, torch.device("cpu"))).log_softmax(1)
    torch.testing.assert_close(found, torch.cat(log_probs), atol=2e-3, rtol=0)


def test_greedy_responses_are_those_of_transformers(
    smollm2: Path, theirs: tuple[Any, Any], chats: Path, tmp_path: Path
) -> None:
    model, tokenizer = theirs
    settings = thack.GenerateSettings(
        model=str(smollm2),
        data=DataSettings(path=str(chats), max_response_tokens=12),
        sampling=thack.SamplingSettings(greedy=True),
        dtype="float32",
        out=tmp_path / "responses",
    )
    thack.generate(settings)
    for row, messages in zip(read(tmp_path / "responses" / "responses.jsonl"), CHATS, strict=True):
        prompt = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        expected = model.generate(**prompt, max_new_tokens=12, do_sample=False, repetition_penalty=1.0)
        assert row["response_ids"] == expected[0, prompt["input_ids"].shape[1] :].tolist()


def test_a_cache_holds_transformers_log_probs(
    smollm2: Path, chats: Path, sequences: list[TokenSequence], log_probs: list[torch.Tensor], tmp_path: Path
) -> None:
    """Top-64: the same ids, log-probs to the record's 8 bits, the exact tail."""
    cache = thack.cache_logits(
        thack.CacheSettings(
            teacher=str(smollm2), data=DataSettings(path=str(chats)), top_k=64, dtype="float32", out=tmp_path / "cache"
        )
    )
    opened = thack.Cache.open(cache)
    for position in range(len(opened)):
        found, target = opened.targets([position])
        assert isinstance(target, TopKTarget) and target.log_tail_N is not None
        log_p = log_probs[found[0].example]
        assert whole(found[0]).tolist() == whole(sequences[found[0].example]).tolist()
        top = log_p.topk(64, dim=1)
        for row in range(len(log_p)):
            kept = set(target.ids_NK[row].tolist())
            assert len(kept & set(top.indices[row].tolist())) >= 63  # two that are nearly equal may change places
        stored = log_p.gather(1, target.ids_NK.long())
        torch.testing.assert_close(target.log_probs_NK, stored, atol=0.07, rtol=0)
        tail = log_p.double().scatter(1, target.ids_NK.long(), -torch.inf).logsumexp(1).float()
        torch.testing.assert_close(target.log_tail_N, tail, atol=0.02, rtol=1e-3)


def test_the_first_loss_of_a_distillation_is_computed_independently(
    smollm2: Path, chats: Path, sequences: list[TokenSequence], log_probs: list[torch.Tensor], tmp_path: Path
) -> None:
    """A new small student with SmolLM2's tokenizer, one step on a live teacher: forward KL per token in float64."""
    student = thack.sft(
        thack.SftSettings(
            tokenizer=str(smollm2),
            architecture=thack.ArchitectureSettings(hidden_size=32, num_layers=1, num_heads=2, tie_head=True),
            data=DataSettings(path=str(chats)),
            epochs=1,
            validation_fraction=0.0,
            out=tmp_path / "student",
        )
    )
    run = thack.distill(
        thack.DistillSettings(
            student=str(student),
            teacher=str(smollm2),
            data=DataSettings(path=str(chats)),
            steps=1,
            batch_size=len(CHATS),
            dtype="float32",
            out=tmp_path / "run",
        )
    )
    with torch.no_grad():
        log_q = load_model(student)(Batch.of(sequences, torch.device("cpu"))).double().log_softmax(1)
    log_p = torch.cat(log_probs).double()
    expected = float((log_p.exp() * (log_p - log_q)).sum(1).mean())
    (row,) = [row for row in read(run.path / "metrics.jsonl") if "loss" in row]
    assert math.isclose(row["loss"], expected, rel_tol=1e-5)
