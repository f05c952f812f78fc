"""What a run trains on: sequences by position in the data set, and the teacher's target for their tokens."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Protocol

import numpy as np

from thack.data.sequence import TokenSequence, cache_positions
from thack.data.spool import SpooledSequences
from thack.generation.sources import ResponseSource
from thack.models.batch import Batch
from thack.targets.cells import CellTarget
from thack.targets.crop import crop
from thack.targets.projected import ProjectedTeacher
from thack.targets.published import PublishedTarget
from thack.targets.types import Target
from thack.training.live import LiveTeacher

AnyTarget = Target | CellTarget | PublishedTarget | ProjectedTeacher


class TrainingData(Protocol):
    """Who wrote the responses is one question; where the target distribution comes from is another."""

    @property
    def keeps_responses(self) -> bool:
        """Whether an open window's responses must be saved, to resume within it."""

    @property
    def generated_tokens(self) -> int:
        """Response tokens sampled for training so far."""

    @property
    def teacher_tokens(self) -> int:
        """Response tokens scored by a live teacher so far."""

    @property
    def lengths(self) -> np.ndarray | None:
        """Tokens of prompt and response by position; None where responses are sampled during the run."""

    def __len__(self) -> int:
        """Positions in the data set."""

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        """The sequences of one window, in the order of `positions`."""

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        """The next batches that `target` will be asked for, in this order, to be read ahead; () ends that."""

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> AnyTarget | None:
        """The teacher's distributions for the rows of `batch`; None: train on the tokens alone."""


def total_lengths(sequences: Iterable[TokenSequence]) -> np.ndarray:
    """Tokens of prompt and response of each sequence."""
    if isinstance(sequences, SpooledSequences):
        return sequences.lengths
    return np.array([len(s.prompt_ids) + len(s.response_ids) for s in sequences])


class PairedData:
    """Given responses and nothing else: supervised fine-tuning."""

    keeps_responses = False
    generated_tokens = 0
    teacher_tokens = 0

    def __init__(self, sequences: Sequence[TokenSequence]) -> None:
        self.pairs = sequences
        self.lengths = total_lengths(sequences)

    def __len__(self) -> int:
        return len(self.pairs)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return [self.pairs[i] for i in positions]

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        """Nothing is read ahead."""

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> None:
        return None


class CachedSequences(Protocol):
    """One cache, or several as one: sequences and targets by position."""

    def __len__(self) -> int: ...

    def sequences(self, position: int) -> TokenSequence:
        """One sequence, without its targets."""

    def targets(self, positions: Sequence[int]) -> tuple[list[TokenSequence], Target]:
        """Sequences in the order of `positions`, and the targets of their response tokens."""

    def prefetch(self, batches: Iterable[Sequence[int]]) -> Generator[tuple[list[TokenSequence], Target], None, None]:
        """`targets` of each batch, read ahead by a thread."""


class CachedTargets:
    """Responses and targets of caches, both by position: a target always belongs to its text (pitfall 21)."""

    keeps_responses = False
    generated_tokens = 0
    teacher_tokens = 0
    lengths = None

    def __init__(self, cache: CachedSequences, width: int, weights: str | None = None) -> None:
        """`weights`: fingerprint of those by which several caches are mixed."""
        self.cache = cache
        self.weights = weights
        self._width = width
        self._ahead: Generator[tuple[list[TokenSequence], Target], None, None] | None = None

    def __len__(self) -> int:
        return len(self.cache)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return [self.cache.sequences(int(i)) for i in positions]

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        """Read and decode them in a thread, a few ahead of the training that uses them."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = self.cache.prefetch(map(cache_positions, batches)) if batches else None

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> Target:
        wanted = cache_positions(sequences)
        found, target = (None, None) if self._ahead is None else next(self._ahead, (None, None))
        if found is None or cache_positions(found) != wanted:  # not expected
            _, target = self.cache.targets(wanted)
        assert target is not None
        return crop(target.to(batch.device), self._width)


class SupervisedCache:
    """The responses of a cache and nothing else; its records are not read."""

    keeps_responses = False
    generated_tokens = 0
    teacher_tokens = 0
    lengths = None

    def __init__(self, cache: CachedSequences) -> None:
        self._cache = cache

    def __len__(self) -> int:
        return len(self._cache)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return [self._cache.sequences(int(i)) for i in positions]

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        """Nothing is read ahead."""

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> None:
        return None


class LiveTargets:
    """Responses from any source, scored by a live teacher."""

    def __init__(
        self, source: ResponseSource, data: Sequence[TokenSequence], teacher: LiveTeacher, *, keeps_responses: bool
    ) -> None:
        """`data` are the prompts by position; unless `keeps_responses`, their responses are those of the source."""
        self.data = data
        self.lengths = None if keeps_responses else total_lengths(data)
        self._source = source
        self._teacher = teacher
        self.keeps_responses = keeps_responses
        self.teacher_tokens = 0

    def __len__(self) -> int:
        return len(self._source)

    @property
    def generated_tokens(self) -> int:
        return self._source.generated_tokens

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return list(self._source.sequences(positions, epoch))

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        """Nothing is read ahead."""

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> Target | ProjectedTeacher:
        self.teacher_tokens += len(batch.labels_N)
        return self._teacher.target(sequences, batch, epoch)
