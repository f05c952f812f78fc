"""How each kind of server is asked for a response with log-probabilities, and for those of a given response.

    dialect     generated tokens     given responses           its log-probabilities of generated tokens
    vllm        /v1/completions      prompt_logprobs           raw, unless started with --logprobs-mode processed_…
    sglang      /generate            input_top_logprobs        of the logits divided by the temperature, by default
    llama.cpp   /completion          not offered               raw (post_sampling_probs is false)
    openai      /v1/completions      not offered               not said

Prompts are sent as ids, and ids are read: texts of tokens never decide what a token is.

Whatever else shapes a response is sent as what does nothing. A server fills in what is not sent from its command line
or the model's generation_config.json, and a response under a repetition penalty is not the teacher's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from thack.config import SamplingSettings
from thack.errors import DataError
from thack.serving.answers import Choice, choice_of, log_prob, read_choices, token_id
from thack.serving.client import Client

_NO_PENALTY: Mapping[str, object] = {"presence_penalty": 0.0, "frequency_penalty": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about one prompt.

    Args:
        model: name of the model on the server.
        prompt_ids: int32 [P].
        k: ids per token.
        max_new_tokens: longest response.
        sampling: how it is sampled.
        seed: of this response; a server that has no seeds ignores it.
    """

    model: str
    prompt_ids: np.ndarray
    k: int
    max_new_tokens: int = 1
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    seed: int = 0


class Dialect(Protocol):
    """One kind of server."""

    name: str
    scores: bool  # responses that are given, too
    unsent: tuple[str, ...]  # settings of the sampling that it has no word for

    def generate(self, client: Client, question: Question) -> Choice:
        """A new response; DataError for an answer that cannot be used."""

    def score(self, client: Client, question: Question, response_ids: np.ndarray) -> Choice:
        """A given response; only where `scores`."""

    def tokenize(self, client: Client, model: str, text: str) -> list[int]:
        """Ids of a text without special tokens around it; ServerError where the server has no such request."""


class OpenAI:
    """Any server with /v1/completions that takes ids and names tokens by their ids."""

    name = "openai"
    scores = False
    unsent: tuple[str, ...] = ("top_k", "min_p")

    def generate(self, client: Client, question: Question) -> Choice:
        answer = client.post("/v1/completions", self._body(question))
        return _own_choice(answer, question)

    def score(self, client: Client, question: Question, response_ids: np.ndarray) -> Choice:
        raise AssertionError("checked before: this server scores no given responses")

    def tokenize(self, client: Client, model: str, text: str) -> list[int]:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return [int(token) for token in client.post("/tokenize", body)["tokens"]]

    def _body(self, question: Question) -> dict[str, object]:
        sampling = question.sampling
        return {
            "model": question.model,
            "prompt": question.prompt_ids.tolist(),
            "max_tokens": question.max_new_tokens,
            "temperature": 0.0 if sampling.greedy else sampling.temperature,
            "top_p": sampling.top_p,
            "seed": question.seed & 0x7FFFFFFF,
            "logprobs": question.k,
            "return_tokens_as_token_ids": True,
            **_NO_PENALTY,
        }


class VLLM(OpenAI):
    """vLLM's OpenAI-style server."""

    name = "vllm"
    scores = True
    unsent: tuple[str, ...] = ()

    def score(self, client: Client, question: Question, response_ids: np.ndarray) -> Choice:
        sent = np.concatenate([question.prompt_ids, response_ids])
        body = self._body(question) | {"prompt": sent.tolist(), "max_tokens": 1, "prompt_logprobs": question.k}
        del body["logprobs"]
        answer = client.post("/v1/completions", body)
        choice: Mapping[str, Any] = answer["choices"][0]
        _check_prompt(choice.get("prompt_token_ids") or answer.get("prompt_token_ids"), answer, sent)
        rows = choice.get("prompt_logprobs") or answer.get("prompt_logprobs")
        if rows is None:
            raise DataError("the answer has no prompt_logprobs", hint="this server does not score given responses")
        if len(rows) != len(sent):
            raise DataError(f"{len(rows)} entries of prompt_logprobs for {len(sent)} tokens")
        tops = [_by_id(row) for row in rows[len(question.prompt_ids) :]]
        return _given(tops, question, response_ids)

    def _body(self, question: Question) -> dict[str, object]:
        sampling = question.sampling
        added = {"top_k": sampling.top_k, "min_p": sampling.min_p, "repetition_penalty": 1.0, "return_token_ids": True}
        return super()._body(question) | added


class SGLang:
    """SGLang's own /generate."""

    name = "sglang"
    scores = True
    unsent: tuple[str, ...] = ()

    def generate(self, client: Client, question: Question) -> Choice:
        answer = client.post("/generate", self._body(question, question.prompt_ids, question.max_new_tokens, -1))
        facts = answer["meta_info"]
        _check_prompt(None, {"usage": facts}, question.prompt_ids)
        own = facts["output_token_logprobs"]
        tops = [_triples(row) for row in facts["output_top_logprobs"]]
        reason = facts.get("finish_reason") or {}
        return choice_of(
            tops,
            [int(item[1]) for item in own],
            [log_prob(item[0]) for item in own],
            k=question.k,
            prompt=question.prompt_ids,
            finish_reason=str(reason.get("type", "")),
        )

    def score(self, client: Client, question: Question, response_ids: np.ndarray) -> Choice:
        sent = np.concatenate([question.prompt_ids, response_ids])
        first = len(question.prompt_ids) - 1  # the row of the first token that is asked for is always empty
        answer = client.post("/generate", self._body(question, sent, 1, first))
        facts = answer["meta_info"]
        own, tops = facts["input_token_logprobs"], facts["input_top_logprobs"]
        if not len(own) == len(tops) == len(sent) - first:
            raise DataError(
                f"{len(own)} and {len(tops)} rows of input log-probabilities for {len(sent) - first} tokens"
            )
        _check_prompt([int(item[1]) for item in own], {}, sent[first:])
        values = [log_prob(item[0]) for item in own[1:]]
        return choice_of(
            [_triples(row) for row in tops[1:]],
            response_ids.tolist(),
            values,
            k=question.k,
            prompt=question.prompt_ids,
        )

    def tokenize(self, client: Client, model: str, text: str) -> list[int]:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return [int(token) for token in client.post("/tokenize", body)["tokens"]]

    def _body(self, question: Question, ids: np.ndarray, new: int, start: int) -> dict[str, object]:
        sampling = question.sampling
        return {
            "input_ids": ids.tolist(),
            "sampling_params": {
                "max_new_tokens": new,
                "temperature": 0.0 if sampling.greedy else sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or -1,
                "min_p": sampling.min_p,
                "sampling_seed": question.seed & 0x7FFFFFFF,
                "repetition_penalty": 1.0,
                **_NO_PENALTY,
            },
            "return_logprob": True,
            "top_logprobs_num": question.k,
            "logprob_start_len": start,
        }


_NO_SAMPLERS: Mapping[str, object] = {  # of llama.cpp; those that are left take the values that are sent
    "samplers": ["top_k", "top_p", "min_p", "temperature"],
    "repeat_penalty": 1.0,
    "dry_multiplier": 0.0,
    "mirostat": 0,  # would take the place of all others
    "dynatemp_range": 0.0,  # a part of the temperature
    **_NO_PENALTY,
}


class LlamaCpp:
    """llama.cpp's own /completion."""

    name = "llama.cpp"
    scores = False
    unsent: tuple[str, ...] = ()

    def generate(self, client: Client, question: Question) -> Choice:
        sampling = question.sampling
        body = {
            "model": question.model,
            "prompt": question.prompt_ids.tolist(),
            "n_predict": question.max_new_tokens,
            "n_probs": question.k,
            "post_sampling_probs": False,
            "return_tokens": True,
            "temperature": 0.0 if sampling.greedy else sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "seed": question.seed & 0x7FFFFFFF,
            **_NO_SAMPLERS,
        }
        answer = client.post("/completion", body)
        if "completion_probabilities" not in answer:
            raise DataError("the answer has no completion_probabilities", hint="this llama.cpp is too old: update it")
        rows = answer["completion_probabilities"]
        _check_prompt(None, {"usage": {"prompt_tokens": answer.get("tokens_evaluated")}}, question.prompt_ids)
        if answer.get("truncated"):
            raise DataError("the prompt did not fit into the server's context", hint="start it with a longer one (-c)")
        return choice_of(
            [[(token_id(one), log_prob(one.get("logprob"))) for one in row.get("top_logprobs") or ()] for row in rows],
            [token_id(row) for row in rows],
            [log_prob(row.get("logprob")) for row in rows],
            k=question.k,
            prompt=question.prompt_ids,
            finish_reason={"eos": "stop", "word": "stop", "limit": "length"}.get(str(answer.get("stop_type")), ""),
        )

    def score(self, client: Client, question: Question, response_ids: np.ndarray) -> Choice:
        raise AssertionError("checked before: this server scores no given responses")

    def tokenize(self, client: Client, model: str, text: str) -> list[int]:
        answer = client.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})
        return [int(token) for token in answer["tokens"]]


DIALECTS: Mapping[str, Dialect] = {one.name: one for one in (VLLM(), SGLang(), LlamaCpp(), OpenAI())}


def _own_choice(answer: Mapping[str, Any], question: Question) -> Choice:
    choice = answer["choices"][0]
    _check_prompt(choice.get("prompt_token_ids") or answer.get("prompt_token_ids"), answer, question.prompt_ids)
    sent = {"prompt_token_ids": question.prompt_ids.tolist()}
    return next(read_choices({"choices": [{**choice, **sent}]}, question.k))


def _given(tops: Sequence[Sequence[tuple[int, float]]], question: Question, response_ids: np.ndarray) -> Choice:
    """A given response whose rows hold the token itself, among the k most likely or beside them."""
    values = []
    for place, (top, token) in enumerate(zip(tops, response_ids.tolist(), strict=True)):
        found = dict(top).get(token)
        if found is None:
            raise DataError(
                f"response token {place} is {token}, which its own log-probabilities do not have",
                hint="rows are shifted against the tokens, or belong to another text",
            )
        values.append(found)
    return choice_of(tops, response_ids.tolist(), values, k=question.k, prompt=question.prompt_ids)


def _check_prompt(found: Sequence[int] | None, answer: Mapping[str, Any], sent: np.ndarray) -> None:
    """Refuse an answer for other ids than were sent: a server that decodes and encodes them again."""
    if found is not None:
        same = list(found) == sent.tolist()
        problem = "the ids of its prompt are not those that were sent"
    else:
        count = (answer.get("usage") or {}).get("prompt_tokens")
        same = count is None or count == len(sent)
        problem = f"it counts {count} tokens in a prompt of {len(sent)}"
    if not same:
        raise DataError(
            f"the server encoded the prompt again: {problem}", hint="it must take prompts as ids and leave them alone"
        )


def _by_id(row: Any) -> list[tuple[int, float]]:
    """Pairs of a map from id to log-probability."""
    if not isinstance(row, Mapping) or not row:
        raise DataError("a response token has no log-probabilities")
    values = [item.get("logprob") if isinstance(item, Mapping) else item for item in row.values()]
    return [(int(key), log_prob(value)) for key, value in zip(row, values, strict=True)]


def _triples(row: Any) -> list[tuple[int, float]]:
    """Pairs of SGLang's lists of log-probability, id and text."""
    if not row:
        raise DataError("a response token has no log-probabilities")
    return [(int(item[1]), log_prob(item[0])) for item in row]
