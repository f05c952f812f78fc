"""Bytes to ids by the merges of a BPE, and the pair test; on bytes that are no UTF-8 too."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from thack.cross_tokenizer.bpe import Bpe, pre_tokenizer_of

_LETTER = "\u02bc"  # stands for a byte that is no UTF-8: a letter without case


class Encoder:
    """The encoder of a text from within another one: no BOS, no space put before it.

    A byte that belongs to an incomplete character counts as a letter where text is split.
    """

    def __init__(self, bpe: Bpe) -> None:
        self.bpe = bpe
        self._merge = {(int(a), int(b)): (rank, int(c)) for rank, (a, b, c) in enumerate(bpe.merges_M3)}
        self._pre = None if bpe.pre_tokenizer is None else pre_tokenizer_of(bpe.pre_tokenizer).pre_tokenizer
        self._can = lru_cache(maxsize=1 << 20)(self._pair)

    def encode(self, data: bytes) -> list[int]:
        """The ids of these bytes."""
        starts = [*self.split(data), len(data)]
        return [i for a, b in pairwise(starts) for i in self._piece(data[a:b])]

    def can(self, previous_N: np.ndarray, next_N: np.ndarray) -> np.ndarray:
        """bool [N]: whether the encoder turns the bytes of a·b into [a, b].

        True where either is no text or −1: nothing is known of such a pair.
        """
        pairs = np.broadcast(previous_N, next_N)
        found = [self._can(int(a), int(b)) for a, b in pairs]
        return np.array(found, bool).reshape(pairs.shape)

    def _pair(self, a: int, b: int) -> bool:
        left, right = self._bytes(a), self._bytes(b)
        return left is None or right is None or self.encode(left + right) == [a, b]

    def _bytes(self, i: int) -> bytes | None:
        return None if i < 0 or i in self.bpe.added else self.bpe.bytes_V[i]

    def split(self, data: bytes) -> list[int]:
        """Where the pieces begin that are merged apart."""
        if self._pre is None or not data:
            return [0] if data else []
        text, places = characters(data)
        return [places[start] for _, (start, _) in self._pre.pre_tokenize_str(text)]

    def _piece(self, data: bytes) -> list[int]:
        known = self.bpe.id_of
        if self.bpe.ignore_merges and data in known:
            return [known[data]]
        symbols = self._symbols(data)
        while len(symbols) > 1:
            none = (len(self._merge), -1)
            ranked = [self._merge.get(pair, none) for pair in pairwise(symbols)]
            rank, merged = min(ranked)
            if merged < 0:
                break
            place = ranked.index((rank, merged))
            symbols[place : place + 2] = [merged]
        return symbols

    def _symbols(self, data: bytes) -> list[int]:
        known = self.bpe.id_of
        if not self.bpe.byte_ids:
            return [known[data[i : i + 1]] for i in range(len(data))]
        text, places = characters(data)
        units = [data[a:b] for a, b in pairwise(places)]
        assert len(units) == len(text)
        return [i for unit in units for i in ([known[unit]] if unit in known else self._fallback(unit))]

    def _fallback(self, unit: bytes) -> list[int]:
        by_byte = {self.bpe.bytes_V[i]: i for i in self.bpe.byte_ids}
        return [by_byte[unit[i : i + 1]] for i in range(len(unit))]


def characters(data: bytes) -> tuple[str, list[int]]:
    """The characters, a letter for each byte that belongs to none; and where each begins, the end last."""
    text = data.decode("utf-8", "surrogateescape")
    places = [0]
    for c in text:
        places.append(places[-1] + (1 if "\udc80" <= c <= "\udcff" else len(c.encode())))
    return "".join(_LETTER if "\udc80" <= c <= "\udcff" else c for c in text), places
