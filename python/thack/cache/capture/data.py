"""The sequences of a cache by position, whatever their number: from a list, or read from a data set part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from thack.data.index import Sequences
from thack.data.sequence import TokenSequence, fingerprint_parts
from thack.files import digest

_BLOCK = 1 << 16


class ListedSequences:
    """Sequences that are in memory.

    Args:
        sequences: in their order.
        samples: responses per prompt that will be generated; 1: they are given, or one of each.
    """

    def __init__(self, sequences: Sequence[TokenSequence], samples: int = 1) -> None:
        self._sequences = sequences
        self._samples = samples

    @property
    def fingerprint(self) -> str:
        return digest(fingerprint_parts(self._sequences, self._samples))

    @property
    def has_teacher_prompts(self) -> bool:
        return any(s.teacher_prompt_ids is not None for s in self._sequences)

    def __len__(self) -> int:
        return len(self._sequences)

    def lengths(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), _BLOCK):
            part = self._sequences[start : start + _BLOCK]
            yield np.array([(len(s.prompt_ids), len(s.response_ids)) for s in part], dtype=np.int64)

    def read(self, positions: Sequence[int]) -> list[TokenSequence]:
        return [self._sequences[i] for i in positions]


class CaptureData:
    """What a capture scores: position p of the cache is sample p % samples of sequence p // samples.

    Args:
        given: by their own positions; without responses where they are generated.
        samples: responses per prompt.
    """

    def __init__(self, given: Sequences, samples: int = 1) -> None:
        self._given = given
        self._samples = samples

    @property
    def fingerprint(self) -> str:
        """Of the sequences of the cache, in their order."""
        return self._given.fingerprint

    @property
    def has_teacher_prompts(self) -> bool:
        """Whether the teacher reads a prompt of its own before some responses."""
        return self._given.has_teacher_prompts

    def __len__(self) -> int:
        return len(self._given) * self._samples

    def lengths(self) -> Iterator[np.ndarray]:
        """int64 [n, 2] in parts, in order: tokens of prompt and response."""
        for part in self._given.lengths():
            yield np.repeat(part, self._samples, axis=0)

    def read(self, positions: Sequence[int]) -> list[TokenSequence]:
        """The sequences at these positions of the cache, ascending."""
        wanted = sorted({position // self._samples for position in positions})
        found = dict(zip(wanted, self._given.read(wanted), strict=True))
        return [self._at(found[position // self._samples], position) for position in positions]

    def _at(self, s: TokenSequence, position: int) -> TokenSequence:
        if self._samples == 1:
            return replace(s, position=position)
        return replace(s, position=position, sample=position % self._samples)
