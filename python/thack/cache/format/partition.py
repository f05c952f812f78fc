"""Which sequences go into which shard: decided from their lengths, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_MAX_SEQUENCES = 1 << 18  # per shard: limits the index that a reader keeps in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLimits:
    """The largest shard. A sequence that exceeds a limit by itself gets a shard of its own.

    Args:
        tokens: response tokens, ≥ 1.
        bytes: of the file, about, ≥ 1.
    """

    tokens: int
    bytes: int


def partition(lengths: Iterable[tuple[int, int]], stride: int, limits: ShardLimits) -> tuple[int, ...]:
    """Cut sequences, in their order, into shards within `limits`, none of them empty.

    Args:
        lengths: tokens of the prompt and of the response of each sequence.
        stride: bytes per record.
        limits: of one shard.

    Returns:
        The position of the first sequence of each shard, ascending from 0, and at the end the number of sequences.

    Example:
        >>> partition([(3, 40), (3, 70), (3, 20), (3, 200)], stride=8, limits=ShardLimits(tokens=100, bytes=9999))
        (0, 1, 3, 4)
    """
    firsts, tokens, size, count = [0], 0, 0, 0
    for position, (prompt, response) in enumerate(lengths):
        added = response * (stride + 4) + 4 * prompt + 64
        in_shard = position - firsts[-1]
        is_full = tokens + response > limits.tokens or size + added > limits.bytes or in_shard == _MAX_SEQUENCES
        if in_shard and is_full:
            firsts.append(position)
            tokens = size = 0
        tokens += response
        size += added
        count = position + 1
    return (*firsts, count)
