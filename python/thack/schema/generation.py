"""What `thack generate` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thack.schema import document


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult:
    """The responses in a directory, counted.

    Args:
        out: the directory.
        responses: number of responses.
        tokens: response tokens.
        finished: fraction of responses that end with an end-of-response token.
        content: hash of responses.jsonl.
    """

    out: Path
    responses: int
    tokens: int
    finished: float
    content: str

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)
