"""What a guarded run trains on: the given data, and from the guard's alarm on what its policy adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from thack.data.sequence import TokenSequence, repeats
from thack.errors import DataError
from thack.files import canonical_json, write_bytes
from thack.generation.accepted import Accepts, SampledAgain, respond_accepted
from thack.generation.sampler import GenerationRequest
from thack.generation.sources import Growing, Mixture, Offline, Online, ResponseSource
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel
from thack.reading import read_json
from thack.runtime.progress import SILENT, Progress
from thack.targets.keys import training_epoch
from thack.training.data import AnyTarget, TrainingData
from thack.training.guard import Guard
from thack.training.live import LiveTeacher

FOLDER = "fresh"  # in the run's directory


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
        given = self._given.sequences(np.arange(len(self._given)), 0)
        settings, seed = self._guard.settings, self._request.seed
        if settings.policy == "raise-online":
            online = Online(
                self._teacher, given, self._request, progress=self._progress, by_teacher=True, accepts=self._accepts
            )
            return Mixture(Offline(given), online, fraction=settings.online_fraction, seed=seed)
        return Growing(Offline(given), self._sets(given), self._guard.schedule(), seed=seed)

    def _sets(self, given: Sequence[TokenSequence]) -> Callable[[int, int], Sequence[TokenSequence]]:
        """(number, epoch) → that set of new responses, sampled, or read where this run has sampled it before."""

        def sampled(number: int, epoch: int) -> list[TokenSequence]:
            path, samples = self._guard.run.path / FOLDER / f"set_{number:03d}.json", _samples(given, number)
            if path.is_file():
                responses = _read(path, epoch, len(given))
                found = [s.with_response(ids, int(n)) for s, ids, n in zip(given, responses, samples, strict=True)]
            else:
                request = replace(self._request, epoch=training_epoch(epoch))
                found, again = respond_accepted(
                    self._teacher, given, request, samples=samples, accepts=self._accepts, as_teacher=True
                )
                self._again.add(again)
                self._write(path, epoch, found)
            tokens = sum(len(s.response_ids) for s in found)
            if self._guard.count_set(number, epoch, tokens):
                self._new_tokens += tokens
            return found

        return sampled

    def _write(self, path: Path, epoch: int, sequences: Sequence[TokenSequence]) -> None:
        if self._guard.run.writes:
            path.parent.mkdir(exist_ok=True)
            rows = [s.response_ids.tolist() for s in sequences]
            write_bytes(path, canonical_json({"epoch": epoch, "responses": rows}))


def _samples(given: Sequence[TokenSequence], number: int) -> np.ndarray:
    """Sample numbers of set `number`: distinct among responses to the same prompt, in all sets."""
    repeat = repeats(given)
    return number * (1 + int(repeat.max())) + repeat


def _read(path: Path, epoch: int, count: int) -> list[np.ndarray]:
    try:
        found = read_json(path)
        responses = [np.asarray(ids, dtype=np.int32) for ids in found["responses"]]
        fits = found["epoch"] == epoch and len(responses) == count and all(ids.ndim == 1 for ids in responses)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        fits = False
    if not fits:
        raise DataError(f"{path} is not a set of this run", hint="remove it: it is sampled again")
    return responses
