"""Long texts as ids part by part: the ids of the whole, in bounded memory.

A tokenizer takes some 100 bytes per character while it encodes. So a text is parted between a letter and the space
behind it. No token of most byte-pair vocabularies holds a letter followed by a space, so that nothing is merged across
that place: what follows it changes no id before it, and what precedes it none behind it. For other tokenizers, and
where a text has no such place, a text of more than `WHOLE` characters is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import models

from thack.errors import DataError

WHOLE = 1 << 22  # characters that are encoded although they cannot be parted
SHORT = 1 << 16  # characters; longer texts are parted
_AT_ONCE = 1 << 20  # characters of the texts that are encoded together
_PLACE = re.compile("[A-Za-z](?= [A-Za-z])")
_ACROSS = re.compile("[A-Za-z][ \u0120\u2581]")  # in a vocabulary a space is itself, \u0120 or \u2581


class LongText(DataError):
    """A text that would take too much memory to be encoded."""


def can_part(backend: Backend) -> bool:
    """Whether nothing that a tokenizer knows reaches across the place at which texts are parted."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    reaches_across = any(map(_ACROSS.search, vocabulary)) or any(content[-1:].isalpha() for content in added)
    return isinstance(backend.model, models.BPE) and not reaches_across


def place(text: str, start: int) -> int | None:
    """The first place from `start` on at which a text may be parted; None: there is none."""
    found = _PLACE.search(text, start)
    return found and found.end()


def encode(backend: Backend, texts: Sequence[str], *, may_part: bool) -> list[np.ndarray]:
    """int32 ids of texts, without what the tokenizer puts around one.

    Raises:
        LongText: one of them is longer than `WHOLE`, and cannot be parted.
    """
    found: list[list[np.ndarray]] = [[] for _ in texts]
    parts = ((number, part) for number, text in enumerate(texts) for part in _parts(text, may_part))
    for group in _groups(parts):
        encodings = backend.encode_batch_fast([part for _, part in group], add_special_tokens=False)
        for (number, part), encoding in zip(group, encodings, strict=True):
            ids = np.asarray(encoding.ids, dtype=np.int32)
            found[number].append(ids[_num_ids(backend, part[0]) :] if found[number] else ids)
    return [ids[0] if len(ids) == 1 else np.concatenate(ids) for ids in found]


def refuse_long(text: str) -> None:
    """Raise LongText for a text that would take too much memory as a whole."""
    if len(text) > WHOLE:
        raise LongText(
            f"a text of {len(text):,} characters, of which more than {WHOLE:,} stand together",
            hint="cut it into several records, at line breaks for example",
        )


def _parts(text: str, may_part: bool) -> Iterator[str]:
    """Parts of a text. Each but the first begins with the last letter of the one before it, whose ids are dropped.

    So it begins within a text, as it should: some tokenizers put a space before one.
    """
    begin = 0
    while may_part and len(text) - begin > SHORT:
        end = place(text, begin + SHORT)
        if end is None:
            break
        refuse_long(text[begin:end])
        yield text[begin:end]
        begin = end - 1
    refuse_long(text[begin:])
    yield text[begin:]


def _num_ids(backend: Backend, letter: str) -> int:
    return len(backend.encode(letter, add_special_tokens=False).ids)


def _groups(parts: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Parts that are encoded together, in order."""
    group: list[tuple[int, str]] = []
    size = 0
    for number, part in parts:
        if group and size + len(part) > _AT_ONCE:
            yield group
            group, size = [], 0
        group.append((number, part))
        size += len(part)
    if group:
        yield group
