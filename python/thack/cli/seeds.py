"""Seeds as they are typed."""

from __future__ import annotations

from thack.errors import UsageError

_HINT = "write 0, or 0,3, or 0-4"


def parse_seeds(text: str) -> list[int]:
    """`0`, `0,3` or `0-4` as numbers, each once.

    Raises:
        UsageError: the text is none of these.
    """
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError as error:
        raise UsageError(f"`seeds` {text}: not seeds", hint=_HINT) from error
    if not numbers:
        raise UsageError(f"`seeds` {text}: no seed", hint=_HINT)
    return list(dict.fromkeys(numbers))


def count_or_list(text: str) -> list[int]:
    """`3` is three seeds; `0,3` and `2-4` are these."""
    return list(range(int(text))) if text.isdigit() and int(text) > 0 else parse_seeds(text)
