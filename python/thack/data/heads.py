"""The beginning of a text that is far longer than what is kept of it: the same first ids, without encoding all of it.

A text is parted between a letter and the space behind it. No token of most byte-pair vocabularies holds a letter
followed by a space, so that nothing is merged across that place and what follows it changes no id before it. For other
tokenizers, and where a text has no such place, texts are encoded whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from thack.data.tokenizer import Tokenizer

_CHARACTERS = 16  # per token: texts below are not worth a look
_PLACE = re.compile("[A-Za-z](?= [A-Za-z])")
_ACROSS = re.compile("[A-Za-z][ \u0120\u2581]")  # in a vocabulary a space is itself, \u0120 or \u2581


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many ids are kept of a text: of a longer prompt none, of a longer response the first ones; 0: all."""

    prompt: int = 0
    response: int = 0


UNBOUNDED = Bounds()


class Heads:
    """Cuts texts for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._can_part: bool | None = None  # found out when a long text comes

    def of(self, text: str, most: int) -> str:
        """A beginning of `text` with its first ids, and with more than `most` of them; or the text.

        Args:
            text: of any length.
            most: ids that are kept of it; 0: all.
        """
        size = _CHARACTERS * (most + 16)
        while most and size < len(text) and self._parts():
            place = _PLACE.search(text, size)
            if place is None:
                return text
            head = text[: place.end()]
            # Twice as many, so that what stands before the text, and joins its first ids, makes no difference.
            if len(self._tokenizer.encode(head)) > 2 * most:
                return head
            size = 4 * place.end()
        return text

    def _parts(self) -> bool:
        if self._can_part is None:
            tokenizer = self._tokenizer
            in_words = not any(map(_ACROSS.search, tokenizer.tokens()))
            self._can_part = tokenizer.is_bpe and in_words and not any(t[-1:].isalpha() for t in tokenizer.added_tokens)
        return self._can_part
