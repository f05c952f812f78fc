"""A run that defends itself: at every evaluation it asks a detector that needs no oracle, and acts on an alarm.

    stop           end here, and hand over the last checkpoint before the student began to memorise
    refresh        let fresh responses of the teacher join the given ones, on a schedule, up to a budget; then end
                   (the student would go on to memorise the larger set), or go on
    raise-online   from here on the teacher writes a share of every epoch afresh

Adding to a growing set beats replacing it at every cost, and soon beats late (docs/findings.md). Everything is a
function of (settings, seed, alarm), and the alarm is in every checkpoint, so a resumed run does what an
uninterrupted one would. An action begins with the epoch behind the alarm. Fresh responses are written once, into
the run's own `fresh/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thack.config import DistillSettings, GuardSettings
from thack.data.sequence import TokenSequence, repeats
from thack.detection import watch
from thack.errors import DataError, UsageError
from thack.files import canonical_json, read_json, write_bytes
from thack.generation.sampler import GenerationRequest, respond
from thack.generation.sources import Growing, Mixture, Offline, Online, ResponseSource
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel
from thack.reporting.prose import detector_meaning
from thack.schema import document
from thack.schema.metrics import GuardRow, Watched
from thack.targets.keys import training_epoch
from thack.targets.projected import ProjectedTeacher
from thack.targets.types import Target
from thack.training.data import TrainingData
from thack.training.live import LiveTeacher
from thack.training.run_directory import RunDirectory

Row = dict[str, Any]
FRESH = "fresh"


def check_guard(settings: DistillSettings) -> None:
    """Refuse a guard that has nothing to watch, or nothing to act with."""
    if not settings.guard.on:
        return
    if settings.source.kind != "offline":
        raise UsageError(
            f"a guard watches offline runs; source.kind is {settings.source.kind}",
            details=["responses that are written afresh are not memorised"],
            hint="leave out `guard.on`, or `source.kind`",
        )
    if not settings.teacher or not settings.eval_data:
        raise UsageError(
            "a guard compares training with held-out prompts, and needs a live teacher for both",
            hint="set `teacher` and `eval_data`",
        )


class Guard:
    """Watches one run. `state` is what a checkpoint holds; the loop asks `ended` at every step."""

    def __init__(self, settings: GuardSettings, run: RunDirectory, steps_per_epoch: int, state: Row) -> None:
        self.settings = settings
        self.state = state
        self._run = run
        self._steps_per_epoch = steps_per_epoch
        state.setdefault("guard", {"history": [], "alarm": None, "written": []})

    @property
    def _own(self) -> Row:
        own: Row = self.state["guard"]
        return own

    def ended(self, step: int) -> bool:
        """Whether the run is over: on the alarm itself, or once the last fresh set was used whole."""
        if self._own["alarm"] is None or self.settings.policy == "raise-online":
            return False
        if self.settings.policy == "stop":
            return True
        return self.settings.then == "stop" and step >= (self.schedule()[-1] + 1) * self._steps_per_epoch

    @property
    def first_epoch(self) -> float:
        """The first epoch in which the action shows; infinite before an alarm."""
        alarm = self._own["alarm"]
        return math.inf if alarm is None else -(-int(alarm["step"]) // self._steps_per_epoch)

    def asks(self, step: int) -> bool:
        """Whether to evaluate here: once behind every epoch in which a fresh set was used whole."""
        epoch, within = divmod(step, self._steps_per_epoch)
        return within == 0 and self.settings.policy == "refresh" and epoch - 1 in self.schedule()

    def protected(self) -> frozenset[int]:
        """Checkpoints to keep: the last evaluation's, and the one before the alarm."""
        alarm, history = self._own["alarm"], self._own["history"]
        return frozenset({int(history[-1]["step"])} if history else ()) | ({int(alarm["kept"])} if alarm else set())

    def observe(self, step: int, columns: Row) -> None:
        """Take in an evaluation; on the first alarm log it, with the checkpoint that is kept."""
        own = self._own
        if own["alarm"] is not None:
            if self.ended(step):
                self._run.append(GuardRow(step=step, action="stop").dump())
            return
        before = [int(row["step"]) for row in own["history"] if row["step"] > 0]
        seen = Watched.of(step, columns)
        self._change(history=[*own["history"], document.dump(seen)])
        history = [document.parse(Watched, row, "the guard's state") for row in self._own["history"]]
        found = watch(history, threshold=self.settings.threshold or None)
        if found is None:
            return
        kept = before[-1] if before else step
        self._change(alarm={"step": step, "onset": found.onset_step, "kept": kept})
        if self.settings.policy == "stop":
            self.state["best_step"] = kept
        alarm = GuardRow(
            step=step,
            action="alarm",
            detector=found.name,
            value=found.value,
            threshold=found.threshold,
            onset_step=found.onset_step,
            meaning=detector_meaning(found),
            kept_step=kept,
        )
        self._run.append(alarm.dump())

    def _change(self, **changes: Any) -> None:
        """A new value instead of a changed one: a checkpoint may still be writing the old one."""
        self.state["guard"] = {**self._own, **changes}

    @property
    def run_path(self) -> Path:
        return self._run.path

    @property
    def writes(self) -> bool:
        return self._run.writes

    def schedule(self) -> list[int]:
        """The epochs in which a fresh set joins: gaps of every·growth^n epochs."""
        if self._own["alarm"] is None:
            return []
        s, first = self.settings, int(self.first_epoch)
        gaps = [s.every * s.growth**n for n in range(s.budget - 1)]
        return [first + round(sum(gaps[:n])) for n in range(s.budget)]

    def note_written(self, number: int, epoch: int, tokens: int) -> bool:
        """Log a fresh set once; whether it is new to this run's account."""
        if number in self._own["written"]:
            return False
        self._change(written=[*self._own["written"], number])
        # One step later: a run that resumes from the checkpoint before writes this row again, and only once.
        step = epoch * self._steps_per_epoch + 1
        row = GuardRow(step=step, action="refresh", epoch=epoch, fresh_set=number, fresh_tokens=tokens)
        self._run.append(row.dump())
        return True


class Guarded:
    """The run's material until the guard acts; from then on what its policy brings, scored by the live teacher."""

    keeps_responses = True

    def __init__(
        self,
        given: TrainingData,
        teacher: LanguageModel,
        request: GenerationRequest,
        thinned: LiveTeacher,
        guard: Guard,
    ) -> None:
        self._given, self._teacher, self._request, self._thinned = given, teacher, request, thinned
        self._guard = guard
        self._source: ResponseSource | None = None
        self._scored = 0
        self._fresh_tokens = 0

    def __len__(self) -> int:
        return len(self._given)

    @property
    def generated_tokens(self) -> int:
        online = self._source.generated_tokens if self._source else 0
        return self._given.generated_tokens + online + self._fresh_tokens

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

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> Target | ProjectedTeacher | None:
        if epoch < self._guard.first_epoch:
            return self._given.target(sequences, batch, epoch)
        self._scored += len(batch.labels_N)
        return self._thinned.target(sequences, batch, epoch)

    def _act(self) -> ResponseSource:
        given = self._given.sequences(np.arange(len(self._given)), 0)
        settings, seed = self._guard.settings, self._request.seed
        if settings.policy == "raise-online":
            online = Online(self._teacher, given, self._request)
            return Mixture(Offline(given), online, fraction=settings.online_fraction, seed=seed)
        write = self._writer(given, self._guard.run_path / FRESH)
        return Growing(Offline(given), write, self._guard.schedule(), seed=seed)

    def _writer(self, given: Sequence[TokenSequence], folder: Path) -> Callable[[int, int], Sequence[TokenSequence]]:
        def write(number: int, epoch: int) -> list[TokenSequence]:
            path, samples = folder / f"set_{number:03d}.json", _samples(given, number)
            responses = _read(path, epoch, given)
            if responses is None:
                responses = self._generate(given, samples, epoch)
                if self._guard.writes:
                    folder.mkdir(exist_ok=True)
                    rows = [ids.tolist() for ids in responses]
                    write_bytes(path, canonical_json({"epoch": epoch, "responses": rows}))
            tokens = sum(len(ids) for ids in responses)
            if self._guard.note_written(number, epoch, tokens):
                self._fresh_tokens += tokens
            return [s.with_response(ids, int(n)) for s, ids, n in zip(given, responses, samples, strict=True)]

        return write

    def _generate(self, given: Sequence[TokenSequence], samples: np.ndarray, epoch: int) -> list[np.ndarray]:
        request = replace(self._request, epoch=training_epoch(epoch))
        return [s.response_ids for s in respond(self._teacher, given, request, samples=samples)]


def _samples(given: Sequence[TokenSequence], number: int) -> np.ndarray:
    """Sample numbers of set `number`: distinct among responses to the same prompt, in all sets."""
    repeat = repeats(given)
    return number * (1 + int(repeat.max())) + repeat


def _read(path: Path, epoch: int, given: Sequence[TokenSequence]) -> list[np.ndarray] | None:
    """A set that this run wrote before it was stopped."""
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("epoch") != epoch or len(found.get("responses", ())) != len(given):
        raise DataError(f"{path} is not of this run", hint="remove it: it is written again")
    return [np.asarray(ids, dtype=np.int32) for ids in found["responses"]]
