"""Which pairs validate: by hash of the prompt's id, so that no prompt stands on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from thack.data.sequence import TokenSequence
from thack.errors import UsageError

_SALT = b"validation:"


def split_validation(
    sequences: Sequence[TokenSequence], held_out: Sequence[TokenSequence] | None, fraction: float
) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """(training, validation): the given held-out pairs, or that fraction of all prompts."""
    if held_out is not None:
        return list(sequences), list(held_out)
    if not 0 <= fraction < 1:
        raise UsageError(f"validation_fraction must lie in [0, 1), got {fraction}")
    training = [s for s in sequences if _place(s.prompt_id) >= fraction]
    return training, [s for s in sequences if _place(s.prompt_id) < fraction]


def _place(prompt_id: str) -> float:
    """A number in [0, 1) that depends on the id alone."""
    word = hashlib.sha256(_SALT + prompt_id.encode()).digest()[:8]
    return int.from_bytes(word, "big") / 2**64
