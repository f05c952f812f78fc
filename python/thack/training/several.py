"""Several caches as one: each sequence from the cache that holds it, or the same sequences with mixed distributions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from thack.cache import Cache
from thack.cache.format.ahead import read_ahead
from thack.config.training import CacheOverlap
from thack.data.sequence import TokenSequence
from thack.errors import CacheError
from thack.targets.crop import crop
from thack.targets.join import concatenate, mix
from thack.targets.types import Target
from thack.training.prompts import PromptWeights, cached_hashes

_LOOKED_AT = 64  # sequences that are compared before a run; all others as they are read


class RoutedCaches:
    """The sequences of all caches, one cache after the other; each has the targets of its own cache.

    Args:
        caches: whose records go together (`cache.format.together`).
        width: ids on which teacher and student are compared.
        kept: positions of each cache that are used; None: all (`first_of_each`).
    """

    def __init__(self, caches: Sequence[Cache], width: int, kept: Sequence[np.ndarray | None]) -> None:
        self._caches = caches
        self._width = width
        self._kept = kept
        counts = [len(c) if kept is None else len(kept) for c, kept in zip(caches, self._kept, strict=True)]
        self._firsts = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def part(self, numbers: Sequence[int]) -> RoutedCaches:
        """The sequences of some of the caches alone."""
        return RoutedCaches([self._caches[n] for n in numbers], self._width, [self._kept[n] for n in numbers])

    def sequences(self, position: int) -> TokenSequence:
        """One sequence, without its targets; `position` counts over all caches."""
        numbers, within = self._places([position])
        return _renamed(self._caches[int(numbers[0])].sequences(int(within[0])), position)

    def targets(self, positions: Sequence[int] | np.ndarray) -> tuple[list[TokenSequence], Target]:
        """As `Cache.targets`, in the order of `positions`."""
        numbers, within = self._places(positions)
        found: dict[int, TokenSequence] = {}
        targets: list[Target] = []
        order: list[int] = []
        for number in np.unique(numbers).tolist():
            asked = np.flatnonzero(numbers == number)
            sequences, target = self._caches[number].targets(within[asked])
            order += asked.tolist()
            targets.append(crop(target, self._width))
            for place, s in zip(asked.tolist(), sequences, strict=True):
                found[place] = _renamed(s, int(positions[place]))
        joined = concatenate(targets)
        if order != sorted(order):
            rows_N = _row_order([len(found[place].response_ids) for place in order], order)
            joined = joined.map(lambda tensor: tensor[rows_N])
        return [found[place] for place in range(len(numbers))], joined

    def prefetch(self, batches: Iterable[Sequence[int]]) -> Generator[tuple[list[TokenSequence], Target], None, None]:
        """As `Cache.prefetch`."""
        return read_ahead(self.targets, batches)

    def _places(self, positions: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the cache and position in it, for each of `positions`."""
        asked = np.asarray(positions, dtype=np.int64)
        numbers = np.searchsorted(self._firsts, asked, side="right") - 1
        within = asked - self._firsts[numbers]
        for number, kept in enumerate(self._kept):
            if kept is not None:
                is_own = numbers == number
                within[is_own] = kept[within[is_own]]
        return numbers, within


class MixedCaches:
    """The sequences that all caches hold, in the same order; their targets are mixed by weights.

    Args:
        caches: of the same sequences, whose records can be mixed (`cache.format.together`).
        width: ids on which teacher and student are compared.
        weights: of each prompt.

    Raises:
        CacheError: their first sequences differ.
    """

    def __init__(self, caches: Sequence[Cache], width: int, weights: PromptWeights) -> None:
        self._caches = caches
        self._width = width
        self._weights = weights
        first, *others = (cache.many(range(min(_LOOKED_AT, len(cache)))) for cache in caches)
        for cache, sequences in zip(caches[1:], others, strict=True):
            _check_same(caches[0], cache, first, sequences)

    def __len__(self) -> int:
        return len(self._caches[0])

    def sequences(self, position: int) -> TokenSequence:
        """One sequence, without its targets."""
        return self._caches[0].sequences(position)

    def targets(self, positions: Sequence[int] | np.ndarray) -> tuple[list[TokenSequence], Target]:
        """As `Cache.targets`, with the mixture of all caches.

        Raises:
            CacheError: a cache holds another sequence at one of `positions`.
        """
        read = [cache.targets(positions) for cache in self._caches]
        sequences = read[0][0]
        for cache, (others, _) in zip(self._caches[1:], read[1:], strict=True):
            _check_same(self._caches[0], cache, sequences, others)
        lengths = torch.tensor([len(s.response_ids) for s in sequences])
        weights_BC = torch.from_numpy(self._weights.of([s.prompt_id for s in sequences]))
        targets = [crop(target, self._width) for _, target in read]
        return sequences, mix(targets, weights_BC.repeat_interleave(lengths, dim=0))

    def prefetch(self, batches: Iterable[Sequence[int]]) -> Generator[tuple[list[TokenSequence], Target], None, None]:
        """As `Cache.prefetch`."""
        return read_ahead(self.targets, batches)


def _renamed(s: TokenSequence, position: int) -> TokenSequence:
    """By its position over all caches: two caches may give the same `example` to different prompts."""
    return replace(s, position=position, example=position)


def _check_same(
    first: Cache, other: Cache, sequences: Sequence[TokenSequence], others: Sequence[TokenSequence]
) -> None:
    for s, t in zip(sequences, others, strict=True):
        if not (np.array_equal(s.prompt_ids, t.prompt_ids) and np.array_equal(s.response_ids, t.response_ids)):
            raise CacheError(
                f"only caches of the same sequences can be mixed: number {s.position} of {first.directory} is another "
                f"one in {other.directory}",
                details=(f"prompt {s.prompt_id} there, prompt {t.prompt_id} here",),
                hint="cache the same responses with each teacher; caches whose responses their teachers generated "
                "have different ones: leave out `cache_weights` and set `cache_overlap = all`",
            )


def first_of_each(caches: Sequence[Cache], overlap: CacheOverlap) -> list[np.ndarray | None]:
    """Positions of each cache that a run uses; None: all. Of each prompt 8 bytes are in memory.

    Args:
        caches: in the order in which they have a prompt.
        overlap: what becomes of a prompt in several caches: refuse; first: the first of them has it; all: each.

    Raises:
        CacheError: a prompt is in several caches, and `overlap` is refuse.
    """
    if overlap == "all":
        return [None] * len(caches)
    kept: list[np.ndarray | None] = []
    seen = np.empty(0, np.uint64)
    for cache in caches:
        hashes = cached_hashes(cache)
        is_seen = np.isin(hashes, seen)
        if overlap == "refuse" and is_seen.any():
            name = cache.sequences(int(np.flatnonzero(is_seen)[0])).prompt_id
            raise CacheError(
                f"{int(is_seen.sum()):,} of the {len(cache):,} sequences of {cache.directory} have prompts that an "
                "earlier cache holds too",
                details=(f"the first is prompt {name}",),
                hint="set `cache_overlap` to first (the first cache has it) or all (train on each), or mix the caches "
                "with `cache_weights`",
            )
        kept.append(np.flatnonzero(~is_seen) if is_seen.any() else None)
        seen = np.union1d(seen, hashes)
    return kept


def _row_order(lengths: Sequence[int], order: Sequence[int]) -> torch.Tensor:
    """For each row of the batch, its row in the targets whose sequences stand in `order`."""
    ends = np.cumsum(lengths)
    rows = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    return torch.from_numpy(np.concatenate([rows[i] for i in np.argsort(order)]))
