"""The same records as token ids of two tokenizers, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thack.config import DataSettings
from thack.data.chat import shared_length
from thack.data.compare import closing_token
from thack.data.encode import RecordEncoder, bounds_of
from thack.data.eos import cut
from thack.data.lengths import kept_of
from thack.data.records import Record, RecordRefusal
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError
from thack.schema.preflight import RenderingDifference, SpecialTokens

_BEFORE, _BEHIND = 3, 5  # tokens shown around a difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How many records at least one tokenizer encoded, how many of them differ, and the first that does."""

    compared: int
    differing: int = 0
    first: RenderingDifference | None = None


def compare(
    records: Sequence[Record], teacher: Tokenizer, student: Tokenizer, settings: DataSettings, limit: int
) -> Comparison:
    """The ids of every record, prompt and response together, on both sides."""
    found: list[RenderingDifference] = []
    compared = 0
    for record in records:
        sides = tuple(_ids(record, tokenizer, settings, limit) for tokenizer in (teacher, student))
        if all(isinstance(side, str) for side in sides):  # refused by both: reading the data counts it
            continue
        compared += 1
        if (difference := _difference(record, sides, (teacher, student))) is not None:
            found.append(difference)
    return Comparison(compared=compared, differing=len(found), first=found[0] if found else None)


def special_tokens(tokenizer: Tokenizer, *, chat: bool) -> SpecialTokens:
    """What begins and ends texts, each token with its id; `chat`: of conversations."""
    ends = tokenizer.ends
    closing = closing_token(tokenizer, chat=chat)

    def named(token_id: int | None) -> str:
        return "" if token_id is None else f"{tokenizer.token(token_id)} {token_id}"

    return SpecialTokens(
        bos=named(tokenizer.bos_id),
        eos=named(ends.eos),
        ends=tuple(named(end) for end in sorted(ends.ids)),
        turn=named(ends.turn),
        closing=named(tokenizer.added_tokens.get(closing, ends.eos)),
        has_template=tokenizer.template() is not None,
    )


def _ids(record: Record, tokenizer: Tokenizer, settings: DataSettings, limit: int) -> np.ndarray | str:
    """The ids of a record that are kept, or why it is refused."""
    most, bounds = settings.max_prompt_tokens, bounds_of([record], tokenizer, kept_of(settings, limit))
    encoder = RecordEncoder(tokenizer, train_on=settings.train_on, text_tokens=limit, bounds=bounds)
    try:
        pairs = encoder.pairs([record])[0]
        if isinstance(pairs, RecordRefusal):
            return str(pairs)
        prompt = pairs[-1].prompt_ids if pairs else encoder.prompts([record])[0]
    except DataError as error:
        return error.message
    if isinstance(prompt, RecordRefusal):
        return str(prompt)
    if len(prompt) > most and settings.on_long == "drop":
        return f"a prompt of more than {most:,} tokens"
    return np.concatenate([prompt[-most:], *(cut(pair.response_ids, limit) for pair in pairs[-1:])])


def _difference(
    record: Record, sides: tuple[np.ndarray | str, ...], tokenizers: tuple[Tokenizer, Tokenizer]
) -> RenderingDifference | None:
    """Where the two sides differ first; None if they agree."""
    teacher, student = sides
    if isinstance(teacher, str) or isinstance(student, str):
        shown = [f"({side})" if isinstance(side, str) else "(accepts it)" for side in sides]
        first, before = 0, ""
    else:
        if np.array_equal(teacher, student):
            return None
        first = shared_length(teacher, student)
        before = _shown(teacher[max(first - _BEFORE, 0) : first], tokenizers[0])
        shown = [
            _shown(ids[first : first + _BEHIND], tokenizer) or "(ends here)"
            for ids, tokenizer in zip((teacher, student), tokenizers, strict=True)
        ]
    return RenderingDifference(record=record.name, position=first, before=before, teacher=shown[0], student=shown[1])


def _shown(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    """Tokens one by one, control tokens too, line breaks escaped."""
    return " ".join(repr(tokenizer.decode([i]) or tokenizer.token(int(i)))[1:-1] or "?" for i in ids)
