"""Bytes to ids by the merges of a BPE, and the pair test; on bytes that are no UTF-8 too."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise

import numpy as np

from thack._native import BpeVocabulary
from thack.cross_tokenizer.bpe import Bpe, characters, pre_tokenizer_of
from thack.cross_tokenizer.shapes import splits_of


class Encoder:
    """The encoder of a text from within another one: no BOS, no space put before it.

    A byte that belongs to an incomplete character counts as a letter where text is split.
    """

    def __init__(self, bpe: Bpe) -> None:
        self.bpe = bpe
        self._merge = {(int(a), int(b)): (rank, int(c)) for rank, (a, b, c) in enumerate(bpe.merges_M3)}
        self._pre = None if bpe.pre_tokenizer is None else pre_tokenizer_of(bpe.pre_tokenizer).pre_tokenizer

    def encode(self, data: bytes) -> list[int]:
        """The ids of these bytes."""
        starts = [*self.split(data), len(data)]
        return [i for a, b in pairwise(starts) for i in self._piece(data[a:b])]

    def can(self, previous_N: np.ndarray, next_N: np.ndarray) -> np.ndarray:
        """bool [N]: whether the encoder turns the bytes of a·b into [a, b]; arrays broadcast.

        Behind white space, with nothing or with a character of another kind behind it, since texts split so.
        True where either is an added token, no text, or −1: nothing is known of such a pair.
        """
        previous, following = np.broadcast_arrays(np.asarray(previous_N, np.int32), np.asarray(next_N, np.int32))
        found = np.empty(previous.shape, np.uint8)
        self.native.can(np.ascontiguousarray(previous), np.ascontiguousarray(following), found)
        return found.astype(bool)

    def first_tokens(self, other: Encoder) -> np.ndarray:
        """int32 [ids of the other] the first id of the encoding of each token of another tokenizer; −1: none."""
        found = np.empty(other.bpe.size, np.int32)
        self.native.first_tokens(other.native, found)
        for i in np.flatnonzero(found < 0):  # pieces that the pairs do not tell
            if token := other.bpe.bytes_V[i]:
                found[i] = next(iter(self.encode(token)), -1)
        return found

    def first_of_pairs(self, other: Encoder, left_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
        """int32 [N] the first id of the encoding of the bytes of two tokens of another tokenizer.

        An end behind the left one adds no bytes; −1: the left one is no text.
        """
        found = np.empty(left_N.shape, np.int32)
        left_N, right_N = (np.ascontiguousarray(ids_N, np.int32) for ids_N in (left_N, right_N))
        self.native.first_of_pairs(other.native, left_N, right_N, found)
        bytes_V = other.bpe.bytes_V
        for n in np.flatnonzero(found < 0):  # pieces that the pairs do not tell
            if left := bytes_V[left_N[n]]:
                found[n] = next(iter(self.encode(left + (bytes_V[right_N[n]] or b""))), -1)
        return found

    @cached_property
    def visible(self) -> np.ndarray:
        """int32, the ids whose text does not begin with white space."""
        return np.array([i for i, text in enumerate(self.bpe.bytes_V) if text and not text[:1].isspace()], np.int32)

    @cached_property
    def native(self) -> BpeVocabulary:
        """The vocabulary with its pair test, built once."""
        bpe, splits = self.bpe, splits_of(self.bpe)
        tokens = [token or b"" for token in bpe.bytes_V]
        return BpeVocabulary(
            np.frombuffer(b"".join(tokens), np.uint8),
            np.cumsum([len(token) for token in tokens], dtype=np.int64),
            np.ascontiguousarray(bpe.merges_M3),
            _flags(bpe.added, bpe.size),
            _flags(bpe.byte_ids, bpe.size),
            splits.shape_V,
            splits.table_SS,
            bpe.ignore_merges,
        )

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
            # Bytes that occur in no UTF-8 may be missing; the library drops them.
            return [known[byte] for byte in (data[i : i + 1] for i in range(len(data))) if byte in known]
        text, places = characters(data)
        units = [data[a:b] for a, b in pairwise(places)]
        assert len(units) == len(text)
        return [i for unit in units for i in ([known[unit]] if unit in known else self._fallback(unit))]

    def _fallback(self, unit: bytes) -> list[int]:
        by_byte = {self.bpe.bytes_V[i]: i for i in self.bpe.byte_ids}
        return [by_byte[unit[i : i + 1]] for i in range(len(unit))]


def _flags(ids: Iterable[int], size: int) -> np.ndarray:
    found = np.zeros(size, np.uint8)
    found[list(ids)] = 1
    return found
