"""What a guarded run trains on: the given data, and from the guard's alarm on what its policy adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np

from thack.data.sequence import TokenSequence, repeats
from thack.data.spool import SpooledSequences
from thack.errors import DataError
from thack.files import canonical_json, write_parts
from thack.generation.accepted import Accepts, SampledAgain, respond_accepted
from thack.generation.sampler import GenerationRequest
from thack.generation.sources import Growing, Mixture, Online, ResponseSource
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel
from thack.reading import lines, parse_line
from thack.runtime.progress import SILENT, Progress
from thack.targets.keys import training_epoch
from thack.training.data import AnyTarget, TrainingData
from thack.training.guard import Guard
from thack.training.live import LiveTeacher

_WINDOW = 1 << 14  # prompts that are read, and sorted by length, together


class GuardedData:
    """The given `TrainingData` until the guard acts; then responses by its policy, scored by the live teacher."""

    keeps_responses = True

    def __init__(
        self,
        given: TrainingData,
        guard: Guard,
        teacher: LanguageModel,
        request: GenerationRequest,
        live: LiveTeacher,
        accepts: Accepts | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """`teacher` samples as `request` says; `live` is the same model, which scores.

        `accepts`: whether a new response can be used; another one is sampled in place of one that cannot, and
        `progress` is told how many.
        """
        self._accepts, self._progress = accepts, progress
        self._again = SampledAgain(progress)
        self._given, self._guard = given, guard
        self._teacher, self._request, self._live = teacher, request, live
        self._source: ResponseSource | None = None
        self._scored = 0
        self._new_tokens = 0

    def __len__(self) -> int:
        return len(self._given)

    @property
    def lengths(self) -> np.ndarray | None:
        return self._given.lengths

    @property
    def generated_tokens(self) -> int:
        online = self._source.generated_tokens if self._source else 0
        return self._given.generated_tokens + online + self._new_tokens

    @property
    def teacher_tokens(self) -> int:
        return self._given.teacher_tokens + self._scored

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        if epoch < self._guard.first_epoch:
            return self._given.sequences(positions, epoch)
        if self._source is None:
            self._source = self._act()
        return self._source.sequences(positions, epoch)

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        self._given.expect(batches if self._source is None else ())

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> AnyTarget | None:
        if epoch < self._guard.first_epoch:
            return self._given.target(sequences, batch, epoch)
        self._scored += len(batch.labels_N)
        return self._live.target(sequences, batch, epoch)

    def _act(self) -> ResponseSource:
        given, settings, seed = GivenSequences(self._given), self._guard.settings, self._request.seed
        if settings.policy == "raise-online":
            online = Online(
                self._teacher, given, self._request, progress=self._progress, by_teacher=True, accepts=self._accepts
            )
            return Mixture(self._given, online, fraction=settings.online_fraction, seed=seed)
        return Growing(self._given, self._sets(given), self._guard.schedule(), seed=seed)

    def _sets(self, given: GivenSequences) -> Callable[[int, int], Sequence[TokenSequence]]:
        """(number, epoch) → that set of new responses, sampled, or read where this run has sampled it before."""

        def joined(number: int, epoch: int) -> SpooledSequences:
            run, samples = self._guard.run, _samples(given, number)
            path, found = run.fresh / f"set_{number:03d}.jsonl", SpooledSequences(run.path)
            if path.is_file():
                for s, ids, n in zip(given, _read(path, epoch, len(given)), samples, strict=True):
                    found.append(s.with_response(ids, int(n)))
            else:
                for s in self._sampled(given, samples, epoch):
                    found.append(s)
                if run.writes:
                    path.parent.mkdir(exist_ok=True)
                    write_parts(path, _lines(epoch, found))
            tokens = sum(len(s.response_ids) for s in found)
            if self._guard.count_set(number, epoch, tokens):
                self._new_tokens += tokens
            return found

        return joined

    def _sampled(self, given: GivenSequences, samples: np.ndarray, epoch: int) -> Iterator[TokenSequence]:
        """A new response to each of the prompts."""
        request = replace(self._request, epoch=training_epoch(epoch))
        for first in range(0, len(given), _WINDOW):
            window = slice(first, first + _WINDOW)
            found, again = respond_accepted(
                self._teacher, given[window], request, samples=samples[window], accepts=self._accepts, as_teacher=True
            )
            self._again.add(again)
            yield from found


class GivenSequences(Sequence[TokenSequence]):
    """The given sequences by position, each read when it is asked for."""

    def __init__(self, given: TrainingData) -> None:
        self._given = given

    def __len__(self) -> int:
        return len(self._given)

    @overload
    def __getitem__(self, index: int) -> TokenSequence: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenSequence]: ...
    def __getitem__(self, index: int | slice) -> TokenSequence | list[TokenSequence]:
        places = range(len(self))[index]
        found = self._given.sequences(np.atleast_1d(places), 0)
        return found if isinstance(index, slice) else found[0]


def _samples(given: Sequence[TokenSequence], number: int) -> np.ndarray:
    """Sample numbers of set `number`: distinct among responses to the same prompt, in all sets."""
    repeat = repeats(given)
    return number * (1 + int(repeat.max())) + repeat


def _lines(epoch: int, sequences: Sequence[TokenSequence]) -> Iterator[bytes]:
    """A set as it is on disk: the epoch in which it joins and the number of responses, then the ids of each."""
    yield canonical_json({"epoch": epoch, "responses": len(sequences)}) + b"\n"
    for s in sequences:
        yield canonical_json({"response_ids": s.response_ids.tolist()}) + b"\n"


def _read(path: Path, epoch: int, count: int) -> Iterator[np.ndarray]:
    """int32 ids of each response of a set.

    Raises:
        DataError: it is another set, or damaged.
    """
    read = 0
    try:
        rows = (parse_line(line) for _, line in lines(path))
        if next(rows, None) != {"epoch": epoch, "responses": count}:
            raise ValueError("another set")
        for row in rows:
            ids = np.asarray(row["response_ids"], dtype=np.int32)
            if ids.ndim != 1 or read == count:
                raise ValueError("no response of the set")
            yield ids
            read += 1
        if read < count:
            raise ValueError("too few responses")
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        hint = "remove it: it is sampled again"
        raise DataError(f"{path} is not a set of this run ({error})", hint=hint) from error
