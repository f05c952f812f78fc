"""What `thack data show` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from thack.schema.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPiece:
    """Ids of one kind that follow each other, as text.

    Args:
        text: what they stand for.
        trained: they belong to the response.
        control: they are control tokens.
    """

    text: str
    trained: bool
    control: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSequence:
    """One sequence: prompt and response as ids and as text.

    Args:
        prompt_id: name of the prompt.
        ids: of prompt and response.
        tokens: the same ids as the tokenizer writes them.
        trained: 1 for every id that is trained, the response; 0 for the prompt.
        pieces: the same as text.
        finished: an end closes the response.
    """

    prompt_id: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    trained: tuple[int, ...]
    pieces: tuple[ShownPiece, ...]
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownData(Document):
    """The first sequences of a data set, and counts of all of it.

    Args:
        counts: what became of the records.
        skipped: records that were left out, with place and reason.
        warnings: what may be wrong, one line each.
        ends: tokens that end a response; the first is put behind responses given as text.
        turn_end: token with which the chat template closes a turn; empty: there is none.
        prompt_tokens: ids of all prompts.
        trained_tokens: ids of all responses.
        sequences: the first ones.
    """

    counts: Mapping[str, int]
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    ends: tuple[str, ...]
    turn_end: str
    prompt_tokens: int
    trained_tokens: int
    sequences: tuple[ShownSequence, ...]
