"""The guard: at every evaluation it asks the detector that needs no oracle, and acts on an alarm.

    stop           end the run, and publish the last checkpoint before the student began to memorise
    refresh        sets of newly sampled responses of the teacher join the given ones, on a schedule, up to a budget;
                   then end the run (the student would memorise the larger set), or continue
    raise-online   from then on the teacher newly samples a share of the responses of every epoch

Everything is a function of (settings, seed, alarm), and the alarm is in every checkpoint. So a resumed run does what an
uninterrupted one would. An action begins with the epoch after the alarm. What the run trains on then is `GuardedData`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from thack.config import GuardSettings
from thack.detection import watch
from thack.reporting.prose import detector_meaning
from thack.schema import document
from thack.schema.metric_rows import GuardRow, Watched
from thack.training.hooks import Hook
from thack.training.run_directory import RunDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedAlarm:
    """The evaluation at which the detector fired."""

    step: int
    onset: float | None  # step at which memorisation began, by the detector
    kept: int  # step of the checkpoint before


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState:
    """What a checkpoint stores. It is replaced and never changed: a checkpoint may still be writing the old one."""

    history: tuple[Watched, ...] = ()  # evaluations until the alarm
    alarm: RaisedAlarm | None = None
    written: tuple[int, ...] = ()  # numbers of the sets of new responses whose cost is counted


class Guard(Hook):
    """Watches one run."""

    name = "guard"

    def __init__(self, settings: GuardSettings, run: RunDirectory, steps_per_epoch: int) -> None:
        self.settings = settings
        self.run = run
        self.state = GuardState()
        self._steps_per_epoch = steps_per_epoch

    def wants_evaluation(self, step: int) -> bool:
        """After every epoch in which a set of new responses was used as a whole."""
        epoch, within = divmod(step, self._steps_per_epoch)
        return within == 0 and self.settings.policy == "refresh" and epoch - 1 in self.schedule()

    def wants_checkpoint(self, step: int) -> bool:
        return False

    def after_evaluation(self, step: int, columns: Mapping[str, float]) -> None:
        """On the first alarm: log it, with the checkpoint that is kept."""
        if self.state.alarm is not None:
            if self.should_stop(step):
                self.run.append(GuardRow(step=step, action="stop"))
            return
        before = [seen.step for seen in self.state.history if seen.step > 0]
        self.state = replace(self.state, history=(*self.state.history, Watched.of(step, columns)))
        found = watch(self.state.history, threshold=self.settings.threshold or None)
        if found is None:
            return
        kept = before[-1] if before else step
        self.state = replace(self.state, alarm=RaisedAlarm(step=step, onset=found.onset_step, kept=kept))
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
        self.run.append(alarm)

    def should_stop(self, step: int) -> bool:
        """At the alarm itself, or once the last set of new responses was used as a whole."""
        if self.state.alarm is None or self.settings.policy == "raise-online":
            return False
        if self.settings.policy == "stop":
            return True
        return self.settings.then == "stop" and step >= (self.schedule()[-1] + 1) * self._steps_per_epoch

    def protected_steps(self) -> frozenset[int]:
        """The last evaluation's, and the one before the alarm."""
        alarm, history = self.state.alarm, self.state.history
        return frozenset({history[-1].step} if history else ()) | ({alarm.kept} if alarm else set())

    def best_step(self) -> int | None:
        stops = self.settings.policy == "stop" and self.state.alarm is not None
        return self.state.alarm.kept if stops and self.state.alarm else None

    def state_dict(self) -> Mapping[str, object]:
        return document.dump(self.state)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.state = document.parse(GuardState, state, "guard state")

    @property
    def first_epoch(self) -> float:
        """The first epoch that the action changes; infinite before an alarm."""
        alarm = self.state.alarm
        return math.inf if alarm is None else -(-alarm.step // self._steps_per_epoch)

    def schedule(self) -> list[int]:
        """The epochs in which a set of new responses joins: gaps of every·growth^n epochs, but at least one.

        So every position reads a set before the next one joins, and the run does not end with responses unread.
        """
        if self.state.alarm is None:
            return []
        s, first = self.settings, int(self.first_epoch)
        gaps = (s.every * s.growth**n for n in range(s.budget - 1))
        due = (first + round(after) for after in accumulate(gaps, initial=0))
        return list(accumulate(due, lambda before, epoch: max(epoch, before + 1)))

    def count_set(self, number: int, epoch: int, tokens: int) -> bool:
        """Log a set of new responses once; whether its cost is not counted yet."""
        if number in self.state.written:
            return False
        self.state = replace(self.state, written=(*self.state.written, number))
        # One step on: a run that resumes from the checkpoint before writes this row again, and only once.
        step = epoch * self._steps_per_epoch + 1
        self.run.append(GuardRow(step=step, action="refresh", epoch=epoch, fresh_set=number, fresh_tokens=tokens))
        return True
