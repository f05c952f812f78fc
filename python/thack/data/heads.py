"""The beginning, or the end, of a text that is far longer than what is kept of it: the same ids, without encoding all.

Where a text may be parted, and why nothing is lost there, says `thack.data.parting`. Other texts are encoded whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from thack.data.parting import place
from thack.data.tokenizer import Tokenizer

_CHARACTERS = 16  # per token: texts below are not worth a look


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

    def of(self, text: str, most: int) -> str:
        """A beginning of `text` with its first ids, and with more than `most` of them; or the text.

        Args:
            text: of any length.
            most: ids that are kept of it; 0: all.
        """
        size = _CHARACTERS * (most + 16)
        while most and size < len(text) and self._tokenizer.can_part:
            end = place(text, size)
            if end is None:
                return text
            head = text[:end]
            # Twice as many, so that what stands before the text, and joins its first ids, makes no difference.
            if len(self._tokenizer.encode(head)) > 2 * most:
                return head
            size = 4 * end
        return text

    def end_of(self, text: str, most: int) -> str:
        """An end of `text` with its last ids, and with more than `most` of them; or the text. Arguments as of `of`."""
        size = _CHARACTERS * (most + 16)
        while most and size < len(text) and self._tokenizer.can_part:
            begin = place(text, len(text) - size)
            end = "" if begin is None else text[begin:]
            # Twice as many, since the beginning of a text may have ids of its own.
            if len(self._tokenizer.encode(end)) > 2 * most:
                return end
            size *= 4
        return text

    def of_prompt(self, text: str, bounds: Bounds) -> str:
        """What has to be encoded of a prompt."""
        return self.end_of(text, bounds.prompt) if bounds.prompt_end else self.of(text, bounds.prompt)
