"""One prompt with at most one response."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A prompt as text, and its response as text, as token ids that a model wrote, or not at all."""

    prompt_id: str
    prompt: str
    response: str | None = None
    response_ids: tuple[int, ...] | None = None
    messages: tuple[dict[str, str], ...] | None = None  # a conversation, rendered by the tokenizer's template
    sample: int = 0


def prompt_id(prompt: str) -> str:
    """A stable name of a prompt: 16 hex digits of the hash of its text."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
