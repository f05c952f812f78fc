"""Answers of servers as token ids with their most likely ids and log-probabilities: one response per `Choice`.

These forms of OpenAI-style servers are read, in `choices` of a completion or a chat completion:

- `logprobs.content[i].top_logprobs[j]` with `token` (or `id`) and `logprob` (chat),
- `logprobs.tokens[i]` and `logprobs.top_logprobs[i]`, a map of token to log-probability (completions).

Tokens must be ids, which vLLM writes as `token_id:123` if asked for `return_tokens_as_token_ids`. Texts are refused,
since several ids may share one. The prompt's ids come from `prompt_token_ids` of the choice or of the whole answer
(`return_token_ids`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from thack.errors import DataError

Entry = tuple[np.ndarray, np.ndarray]  # ids int64, natural log-probabilities float64
_PREFIX = "token_id:"
_TOLERANCE = 1e-3  # servers round log-probabilities
_MOST_PADDED = 0.05  # mass of padded ids, which were never trained; tokens that a tokenizer lacks have more


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One response of an answer.

    Args:
        number: of the choice in its answer.
        prompt: ids of the prompt.
        response: ids of the response.
        entries: the most likely ids of each response token.
        realised: float64, log-probability of each response token itself.
        finish_reason: why the server stopped: "stop", "length", or not said.
    """

    number: int
    prompt: np.ndarray
    response: np.ndarray
    entries: list[Entry]
    realised: np.ndarray
    finish_reason: str = ""


def read_choices(content: Mapping[str, Any], k: int = 0) -> Iterator[Choice]:
    """Every choice of an answer; `k` is the number of ids that were asked for, if it is known."""
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
        tops, tokens, values = _chat(given["content"]) if given.get("content") else _completion(given)
        if not tokens:
            raise DataError(f"choice {number} has an empty response")
        reason = str(choice.get("finish_reason") or "")
        yield choice_of(tops, tokens, values, k=k, prompt=np.asarray(prompt), number=number, finish_reason=reason)


def choice_of(
    tops: Sequence[Sequence[tuple[int, float]]],
    tokens: Sequence[int],
    values: Sequence[float],
    *,
    k: int = 0,
    prompt: np.ndarray,
    number: int = 0,
    finish_reason: str = "",
) -> Choice:
    """A response from what a server gives for each of its tokens.

    Args:
        tops: pairs of id and log-probability; one more than k where the token itself was added to the k most likely.
        tokens: ids of the response.
        values: log-probability of each token.
        k: number of ids that were asked for; 0: the fewest that a token has.
        prompt: its ids.
        number: of the choice.
        finish_reason: why the server stopped.

    Raises:
        DataError: a token's log-probability contradicts its most likely ids: rows are shifted.
    """
    k = k or min((len(top) for top in tops), default=0)
    entries = []
    for place, (top, token, value) in enumerate(zip(tops, tokens, values, strict=True)):
        pairs = list(top)
        # k entries, or k + 1 if the actual token was added to them: it is then the least likely.
        if len(pairs) > k and min(pairs, key=lambda pair: pair[1])[0] == token:
            pairs = [pair for pair in pairs if pair[0] != token]
        entries.append(_entry(pairs, token, value, place))
    return Choice(
        number=number,
        prompt=prompt,
        response=np.asarray(tokens, dtype=np.int64),
        entries=entries,
        realised=np.asarray(values, dtype=np.float64),
        finish_reason=finish_reason,
    )


_Rows = tuple[list[list[tuple[int, float]]], list[int], list[float]]


def _chat(items: Sequence[Mapping[str, Any]]) -> _Rows:
    tops = [[(token_id(one), log_prob(one["logprob"])) for one in item["top_logprobs"]] for item in items]
    return tops, [token_id(item) for item in items], [log_prob(item["logprob"]) for item in items]


def _completion(given: Mapping[str, Any]) -> _Rows:
    tokens = [_id(token) for token in given["tokens"]]
    values, tops = given["token_logprobs"], given["top_logprobs"]
    if not len(tokens) == len(values) == len(tops):
        raise DataError(f"{len(tokens)} tokens, {len(values)} token_logprobs and {len(tops)} top_logprobs")
    pairs = [[(_id(key), log_prob(one)) for key, one in (top or {}).items()] for top in tops]
    return pairs, tokens, [log_prob(value) for value in values]


def log_prob(value: Any) -> float:
    """A log-probability; DataError for null or a text. NaN is told apart later, with its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{value!r:.40} is not a log-probability")
    return float(value)


def check_entry(entry: Entry, k: int, vocab_size: int, place: str) -> None:
    """Refuse a row with fewer than k ids, an id twice or outside the vocabulary, or what is no log-probability."""
    ids, log_probs = entry
    if len(ids) < k:
        raise DataError(f"{place}: {len(ids)} entries, expected {k}")
    if len(np.unique(ids)) != len(ids):
        raise DataError(f"{place}: an id occurs twice")
    if ids.min() < 0 or ids.max() >= vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise DataError(f"{place}: id {wrong} is outside the vocabulary of {vocab_size:,}")
    if not (log_probs <= 1e-4).all():
        wrong = log_probs[~(log_probs <= 1e-4)][0]
        raise DataError(f"{place}: {wrong} is not a log-probability")


class PaddedError(DataError):
    """An answer with padded ids, which the tokenizer does not have; another answer may do without them.

    `is_drawn`: the response itself has one, else its rows have too few other ids.
    """

    def __init__(self, message: str, *, is_drawn: bool) -> None:
        super().__init__(message)
        self.is_drawn = is_drawn


def without_padded(entry: Entry, tokenizer_size: int, place: str, most: float = 1.0) -> Entry:
    """The entry on the tokenizer's ids alone, scaled to them, as a capture has it: padded ids take no part.

    Raises:
        DataError: their mass is `most` or more.
    """
    ids, log_probs = entry
    padded = ids >= tokenizer_size
    if not padded.any():
        return entry
    mass = float(np.exp(log_probs[padded]).sum())
    if padded.all() or mass >= most:
        raise DataError(
            f"{place}: a mass of {mass:.2f} is on ids that the tokenizer does not have",
            hint="use the tokenizer of that model, with all of its added tokens",
        )
    return ids[~padded], log_probs[~padded] - np.log1p(-mass)


def check_choice(choice: Choice, k: int, vocab_size: int) -> Choice:
    """The choice on the tokenizer's ids alone, with `check_entry` for every token of the response.

    Raises:
        PaddedError: padded ids are in the response, or leave a row with fewer than k others.
        DataError: the answer cannot be used.
    """
    if not len(choice.response):
        raise DataError("an empty response")
    if choice.response.min() < 0 or choice.response.max() >= vocab_size:
        raise PaddedError(f"the response has an id outside the vocabulary of {vocab_size:,}", is_drawn=True)
    entries = [
        checked_entry(entry, k, vocab_size, f"response token {place}") for place, entry in enumerate(choice.entries)
    ]
    if (fewest := min(len(ids) for ids, _ in entries)) < k:
        raise PaddedError(f"{fewest} entries on ids of the tokenizer, expected {k}", is_drawn=False)
    return replace(choice, entries=entries)


def checked_entry(entry: Entry, k: int, vocab_size: int, place: str) -> Entry:
    """An entry of k ids or more, without the padded ones among them; raises as `check_entry`."""
    check_entry(entry, k, sys.maxsize, place)
    return without_padded(entry, vocab_size, place, _MOST_PADDED)


def _entry(pairs: Sequence[tuple[int, float]], token: int, value: float, place: int) -> Entry:
    """The k most likely ids. The actual token's log-probability must agree with them, or rows are shifted."""
    if not pairs:
        raise DataError(f"response token {place} has no log-probabilities")
    found = dict(pairs).get(token)
    agrees = (
        found == value or abs(found - value) <= _TOLERANCE
        if found is not None
        else value <= min(one for _, one in pairs) + _TOLERANCE
    )
    if not agrees:
        raise DataError(
            f"response token {place} is {token} with {value}, which contradicts its top_logprobs",
            hint="rows are shifted against the tokens, or belong to another text",
        )
    ids, values = zip(*pairs, strict=True)
    return np.asarray(ids, dtype=np.int64), np.asarray(values, dtype=np.float64)


def token_id(item: Mapping[str, Any]) -> int:
    """The id of a token: its `id`, or its name as an id."""
    given = item.get("id")
    return given if isinstance(given, int) and not isinstance(given, bool) else _id(item["token"])


def _id(token: Any) -> int:
    text = str(token)
    if not text.startswith(_PREFIX) or not text[len(_PREFIX) :].isdigit():
        raise DataError(
            f"token {text!r} is a text, not an id",
            hint="several ids may share a text: ask the server for return_tokens_as_token_ids",
        )
    return int(text[len(_PREFIX) :])
