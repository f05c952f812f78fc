"""Rows from the JSON that OpenAI-style servers answer with: one response per choice, its top log-probs as ids.

Understood, in `choices` of a completion or a chat completion:

- `logprobs.content[i].top_logprobs[j]` with `token` and `logprob` (chat),
- `logprobs.tokens[i]` and `logprobs.top_logprobs[i]`, a map of token to log-probability (completions).

Tokens must be ids, which vLLM writes as `token_id:123` when asked for `return_tokens_as_token_ids`; texts
are refused, since several ids may share one. The prompt's ids come from `prompt_token_ids`, of the choice
or of the whole answer (`return_token_ids`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from thack.errors import DataError

Entry = tuple[np.ndarray, np.ndarray]
_PREFIX = "token_id:"
_SAME = 1e-3  # servers round log-probabilities


def choices(content: Mapping[str, Any]) -> Iterator[tuple[int, np.ndarray, np.ndarray, list[Entry]]]:
    """Number, prompt ids, response ids and entries of every choice."""
    for number, choice in enumerate(content["choices"]):
        prompt = choice.get("prompt_token_ids") or content.get("prompt_token_ids")
        if not prompt:
            raise DataError(
                f"choice {number} does not say what its prompt was",
                hint="ask the server for return_token_ids, or add prompt_token_ids to the line",
            )
        given = choice.get("logprobs")
        if not given:
            raise DataError(f"choice {number} has no logprobs", hint="ask the server for logprobs and top_logprobs")
        tokens, entries = _chat(given["content"]) if given.get("content") else _completion(given)
        if not len(tokens):
            raise DataError(f"choice {number} has an empty response")
        yield number, np.asarray(prompt), tokens, entries


def _chat(items: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[Entry]]:
    tokens, entries = [], []
    for place, item in enumerate(items):
        top = [(_id(one["token"]), float(one["logprob"])) for one in item["top_logprobs"]]
        tokens.append(_id(item["token"]))
        entries.append(_entry(top, tokens[-1], float(item["logprob"]), place))
    return np.asarray(tokens, dtype=np.int64), entries


def _completion(given: Mapping[str, Any]) -> tuple[np.ndarray, list[Entry]]:
    tokens = [_id(token) for token in given["tokens"]]
    values, tops = given["token_logprobs"], given["top_logprobs"]
    if not len(tokens) == len(values) == len(tops):
        raise DataError(f"{len(tokens)} tokens, {len(values)} token_logprobs and {len(tops)} top_logprobs")
    k = min((len(top or ()) for top in tops), default=0)
    entries = []
    for place, (token, value, top) in enumerate(zip(tokens, values, tops, strict=True)):
        pairs = [(_id(key), float(one)) for key, one in (top or {}).items()]
        # k entries, or k + 1 where the actual token was only added: it is then the least likely.
        if len(pairs) > k and min(pairs, key=lambda pair: pair[1])[0] == token:
            pairs = [pair for pair in pairs if pair[0] != token]
        entries.append(_entry(pairs, token, float(value), place))
    return np.asarray(tokens, dtype=np.int64), entries


def _entry(pairs: Sequence[tuple[int, float]], token: int, value: float, place: int) -> Entry:
    """The k most likely ids; the actual token's own number must agree with them, or rows are shifted."""
    if not pairs:
        raise DataError(f"response token {place} has no log-probabilities")
    found = dict(pairs).get(token)
    agrees = abs(found - value) <= _SAME if found is not None else value <= min(one for _, one in pairs) + _SAME
    if not agrees:
        raise DataError(
            f"response token {place} is {token} with {value}, which its top_logprobs contradict",
            hint="rows are shifted against the tokens, or belong to another text",
        )
    ids, values = zip(*pairs, strict=True)
    return np.asarray(ids, dtype=np.int64), np.asarray(values, dtype=np.float64)


def _id(token: Any) -> int:
    text = str(token)
    if not text.startswith(_PREFIX) or not text[len(_PREFIX) :].isdigit():
        raise DataError(
            f"token {text!r} is a text, not an id",
            hint="several ids may share a text: ask the server for return_tokens_as_token_ids",
        )
    return int(text[len(_PREFIX) :])
