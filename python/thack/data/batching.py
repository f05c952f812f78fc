"""Batches of sequences of similar length, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thack.data.sequence import TokenSequence


def by_length(
    sequences: Sequence[TokenSequence], batch_size: int, *, longest_first: bool = False
) -> Iterator[list[TokenSequence]]:
    """All sequences in batches of `batch_size`, by length of prompt and response; ties keep their order."""
    sign = -1 if longest_first else 1
    ordered = sorted(sequences, key=lambda s: sign * (len(s.prompt_ids) + len(s.response_ids)))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]
