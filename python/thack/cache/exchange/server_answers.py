"""Rows from the answers of OpenAI-style servers: one response per choice, with its top log-probabilities.

These forms are read, in `choices` of a completion or a chat completion:

- `logprobs.content[i].top_logprobs[j]` with `token` and `logprob` (chat),
- `logprobs.tokens[i]` and `logprobs.top_logprobs[i]`, a map of token to log-probability (completions).

Tokens must be ids, which vLLM writes as `token_id:123` if asked for `return_tokens_as_token_ids`. Texts are refused,
since several ids may share one. The prompt's ids come from `prompt_token_ids` of the choice or of the whole answer
(`return_token_ids`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thack.errors import DataError

Entry = tuple[np.ndarray, np.ndarray]  # ids int64, natural log-probabilities float64
_PREFIX = "token_id:"
_TOLERANCE = 1e-3  # servers round log-probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One response of an answer."""

    number: int
    prompt: np.ndarray
    response: np.ndarray
    entries: list[Entry]  # of each response token
    finish_reason: str = ""  # why the server stopped: "stop", "length", or not said


def read_choices(content: Mapping[str, Any]) -> Iterator[Choice]:
    """Every choice of an answer."""
    for number, choice in enumerate(content["choices"]):
        prompt = choice.get("prompt_token_ids") or content.get("prompt_token_ids")
        if not prompt:
            raise DataError(
                f"choice {number} has no prompt_token_ids",
                hint="ask the server for return_token_ids, or add prompt_token_ids to the line",
            )
        given = choice.get("logprobs")
        if not given:
            raise DataError(f"choice {number} has no logprobs", hint="ask the server for logprobs and top_logprobs")
        tokens, entries = _chat(given["content"]) if given.get("content") else _completion(given)
        if not len(tokens):
            raise DataError(f"choice {number} has an empty response")
        reason = str(choice.get("finish_reason") or "")
        yield Choice(number=number, prompt=np.asarray(prompt), response=tokens, entries=entries, finish_reason=reason)


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
        # k entries, or k + 1 if the actual token was added to them: it is then the least likely.
        if len(pairs) > k and min(pairs, key=lambda pair: pair[1])[0] == token:
            pairs = [pair for pair in pairs if pair[0] != token]
        entries.append(_entry(pairs, token, float(value), place))
    return np.asarray(tokens, dtype=np.int64), entries


def _entry(pairs: Sequence[tuple[int, float]], token: int, value: float, place: int) -> Entry:
    """The k most likely ids. The actual token's log-probability must agree with them, or rows are shifted."""
    if not pairs:
        raise DataError(f"response token {place} has no log-probabilities")
    found = dict(pairs).get(token)
    agrees = (
        abs(found - value) <= _TOLERANCE if found is not None else value <= min(one for _, one in pairs) + _TOLERANCE
    )
    if not agrees:
        raise DataError(
            f"response token {place} is {token} with {value}, which contradicts its top_logprobs",
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
