"""Random orders of any length, of which any part is computed alone.

    sorted   the order in which n random words sort: n words in memory, O(n log n) once an epoch
    keyed    a permutation of range(n) by a keyed formula: nothing in memory, O(1) for each place

Runs of few sequences are sorted, as every run was before there was the other; see `order_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import isqrt

import numpy as np

from thack.schema.run import Order, RunFacts
from thack.targets.keys import Stream, run_words

_MOST_SORTED = 1 << 16  # sequences
_ROUNDS = 8


def order_of(count: int, earlier: RunFacts | None = None) -> Order:
    """How a new run over `count` sequences orders them; a resumed one keeps the order that its facts began with."""
    if earlier is not None:
        return earlier.order
    return "sorted" if count <= _MOST_SORTED else "keyed"


@dataclass(frozen=True, kw_only=True)
class Permutation:
    """A permutation of range(count): a function of (seed, stream, epoch), the same for every version of NumPy.

    `keyed` is an unbalanced Feistel network over pairs (left, right), left < a and right < b with a·b ≥ count: eight
    rounds that add a hash of one half to the other, modulo a or b. Each round can be undone, so that no two pairs
    meet. A pair that stands for no number below `count` is mapped again until it does (cycle walking), which at most
    2·√count of them are. Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002).

    Example:
        >>> order = Permutation(count=10**12, seed=0, stream=Stream.POSITIONS, epoch=0, order="keyed")
        >>> bool(order.at(np.arange(3)).max() < 10**12)
        True
    """

    count: int
    seed: int
    stream: Stream
    epoch: int
    order: Order

    def at(self, places: np.ndarray) -> np.ndarray:
        """int64: what stands at these places of the order."""
        if self.order == "sorted":
            return np.take(_sorted(self.count, self.seed, self.stream, self.epoch), places)
        found = self._mapped(np.asarray(places, dtype=np.uint64))
        while (outside := found >= self.count).any():
            found[outside] = self._mapped(found[outside])
        return found.astype(np.int64)

    @cached_property
    def _keys(self) -> np.ndarray:
        return run_words(self.seed, self.stream, self.epoch, count=_ROUNDS)

    def _mapped(self, numbers: np.ndarray) -> np.ndarray:
        a = np.uint64(isqrt(self.count - 1) + 1)
        b = np.uint64(-(-self.count // int(a)))
        left: np.ndarray = numbers // b
        right: np.ndarray = numbers % b
        for first, second in self._keys.reshape(-1, 2):
            left = (left + _hashed(right, first) % a) % a
            right = (right + _hashed(left, second) % b) % b
        found: np.ndarray = left * b + right
        return found


def _hashed(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """A hash of each value under a key: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    mixed: np.ndarray = values + key  # wraps around
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


@lru_cache(maxsize=4)  # an epoch's positions and batches
def _sorted(count: int, seed: int, stream: Stream, epoch: int) -> np.ndarray:
    found = np.argsort(run_words(seed, stream, epoch, count=count), kind="stable")
    found.flags.writeable = False
    return found
