"""Batches of sequences of similar length, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thack.data.sequence import TokenSequence


def by_length(
    sequences: Sequence[TokenSequence], batch_size: int, *, longest_first: bool = False
) -> Iterator[list[TokenSequence]]:
    """All sequences in batches of `batch_size`, by length of prompt and response; ties keep their order."""
    sign = -1 if longest_first else 1
    lengths = [len(s.prompt_ids) + len(s.response_ids) for s in sequences]
    order = sorted(range(len(lengths)), key=lambda i: sign * lengths[i])
    for start in range(0, len(order), batch_size):
        yield [sequences[i] for i in order[start : start + batch_size]]
