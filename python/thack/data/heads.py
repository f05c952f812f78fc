"""The beginning, or the end, of a text that is far longer than what is kept of it: the same ids, without encoding all.

A text is parted between a letter and the space behind it. No token of most byte-pair vocabularies holds a letter
followed by a space, so that nothing is merged across that place: what follows it changes no id before it, and what
precedes it none behind it. For other tokenizers, and where a text has no such place, texts are encoded whole.
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
    prompt_end: bool = False  # the last ids of a longer prompt are kept


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

    def end_of(self, text: str, most: int) -> str:
        """An end of `text` with its last ids, and with more than `most` of them; or the text. Arguments as of `of`."""
        size = _CHARACTERS * (most + 16)
        while most and size < len(text) and self._parts():
            place = _PLACE.search(text, len(text) - size)
            end = text[place.end() :] if place else ""
            # Twice as many, since the beginning of a text may have ids of its own.
            if len(self._tokenizer.encode(end)) > 2 * most:
                return end
            size *= 4
        return text

    def of_prompt(self, text: str, bounds: Bounds) -> str:
        """What has to be encoded of a prompt."""
        return self.end_of(text, bounds.prompt) if bounds.prompt_end else self.of(text, bounds.prompt)

    def _parts(self) -> bool:
        if self._can_part is None:
            tokenizer = self._tokenizer
            in_words = not any(map(_ACROSS.search, tokenizer.tokens()))
            self._can_part = tokenizer.is_bpe and in_words and not any(t[-1:].isalpha() for t in tokenizer.added_tokens)
        return self._can_part
