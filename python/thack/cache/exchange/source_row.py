"""A row of a source: one sequence, and of each response token the ids and log-probabilities that the source has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from thack.cache.exchange.tails import RowTail
from thack.data.formats import given_name
from thack.data.sequence import TokenSequence
from thack.errors import DataError
from thack.files import digest
from thack.serving.answers import Entry

# Of the mass of a token: by a record's 8 bits, or by the polynomial and bins of packed rows.
APPROXIMATION = 0.02


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One sequence, and for each response token the ids in the source."""

    sequence: TokenSequence
    entries: list[Entry]
    place: str  # in the source
    finish_reason: str = ""  # why a server stopped: "stop", "length", or not said
    slack: float = 0.0  # how far Σp may exceed 1 because the source approximates it
    given: np.ndarray | None = None  # log-probability of each response token, where the source says it apart
    is_named: bool = False  # by the source, for this prompt alone
    tail: RowTail | None = None  # what the source says of all other ids; None: nothing


def row_of(
    content: Mapping[str, Any],
    prompt: np.ndarray,
    response: np.ndarray,
    entries: list[Entry],
    place: str,
    sample: int = 0,
) -> SourceRow:
    """A row whose prompt is named by `prompt_id` or `id` of `content`, or by its ids."""
    prompt_ids, response_ids = token_ids(prompt, place), token_ids(response, place)
    names = (given_name(content, key) for key in ("prompt_id", "id"))
    name = next((name for name in names if name is not None), None)
    sequence = TokenSequence(
        example=0,  # until all are numbered
        prompt_id=digest(prompt_ids.tobytes())[7:23] if name is None else name,
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        sample=sample,
    )
    return SourceRow(sequence, entries, place, is_named=name is not None)


def token_ids(values: np.ndarray, place: str) -> np.ndarray:
    """int32 ids, of any shape; values that are not whole numbers from 0 to 2³¹ − 1 are refused."""
    found = whole_numbers(values, place, "a token id")
    if found.min(initial=0) < 0 or found.max(initial=0) >= 1 << 31:
        wrong = found[(found < 0) | (found >= 1 << 31)][0]
        raise DataError(f"{place}: {wrong} is not a token id")
    return np.ascontiguousarray(found, dtype=np.int32)


def whole_numbers(values: np.ndarray, place: str, what: str) -> np.ndarray:
    """The same as int64; a fraction, NaN, or a number beyond 64 bits is refused as not being `what`."""
    with np.errstate(invalid="ignore"):
        found = values.astype(np.int64)
    if bool((wrong := found != values).any()):
        raise DataError(f"{place}: {values[wrong][0]} is not {what}")
    return found


def is_export(facts: Mapping[str, str]) -> bool:
    """Whether a file's metadata are those of an exported cache."""
    return "vocab_size" in facts
