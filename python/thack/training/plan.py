"""Which sequences meet in which step: a pure function of (plan, seed, epoch, step), for any number of ranks.

Resuming therefore needs integers only, and every rank knows the whole step without asking the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from thack.errors import UsageError
from thack.targets.keys import Stream, run_words

T = TypeVar("T")
_POOL_BATCHES = 16  # bucketing sorts within pools of so many batches: wide enough to save padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Consecutive steps of one epoch that draw on responses written at one moment."""

    epoch: int
    first_step: int  # optimizer steps before it, over all epochs
    batches: tuple[np.ndarray, ...]  # positions in the data set, one array per step

    @property
    def positions(self) -> np.ndarray:
        return np.concatenate(self.batches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`num_sequences` in batches of `batch_size`, reshuffled every epoch; the last batch may be smaller.

    With `lengths`, batches are cut from pools sorted by length, so that little of them is padding.
    """

    num_sequences: int
    batch_size: int
    seed: int
    total_steps: int
    window_steps: int = 0  # 0: a window is an epoch
    lengths: np.ndarray | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_sequences // self.batch_size)

    @property
    def num_epochs(self) -> int:
        return -(-self.total_steps // self.steps_per_epoch)

    def window(self, step: int) -> Window:
        """The window that holds optimizer step `step`, counted from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        width = self.window_steps or self.steps_per_epoch
        first = within // width * width
        last = min(first + width, self.total_steps - epoch * self.steps_per_epoch)
        batches = self.epoch(epoch)[first:last]
        return Window(epoch=epoch, first_step=epoch * self.steps_per_epoch + first, batches=tuple(batches))

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch: every position exactly once."""
        order = shuffled(self.num_sequences, self.seed, epoch)
        if self.lengths is None:
            return self._cut(order)
        pool = self.batch_size * _POOL_BATCHES
        starts = range(0, len(order), pool)
        batches = [batch for start in starts for batch in self._cut(self._by_length(order[start : start + pool]))]
        # The short batch stays last: a ragged step in the middle would change with the pool.
        full = len(batches) - (self.num_sequences % self.batch_size != 0)
        mixed = shuffled(full, self.seed, epoch, stream=Stream.BATCHES)
        return [batches[i] for i in mixed] + batches[full:]

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _by_length(self, pool: np.ndarray) -> np.ndarray:
        assert self.lengths is not None
        ragged = len(pool) % self.batch_size
        body, rest = pool[: len(pool) - ragged], pool[len(pool) - ragged :]
        return np.concatenate([body[np.argsort(self.lengths[body], kind="stable")], rest])


def shuffled(count: int, seed: int, epoch: int, stream: Stream = Stream.POSITIONS) -> np.ndarray:
    """A permutation of range(count), the same for every version of NumPy."""
    return np.argsort(run_words(seed, stream, epoch, count=count), kind="stable")


def plan_steps(num_sequences: int, batch_size: int, epochs: int, steps: int) -> int:
    """Optimizer steps of a run: `steps` if given, else `epochs` whole passes."""
    if num_sequences < 1:
        raise UsageError("there is nothing to train on: no sequence is left")
    if batch_size < 1:
        raise UsageError(f"batch_size must be 1 or more, got {batch_size}")
    total = steps or epochs * -(-num_sequences // batch_size)
    if total < 1:
        raise UsageError(f"a run needs at least one step, got epochs = {epochs}, steps = {steps}")
    return total


def evaluation_steps(total: int, count: int, spacing: str) -> list[int]:
    """0, then up to `count` steps that end at `total`: evenly in log(step) from total/240 on, or in step."""
    if count < 1:
        return [0, total]
    if spacing == "linear":
        points = np.linspace(total / count, total, count)
    else:
        points = np.geomspace(max(1.0, total / 240), total, count)
    return [0, *np.unique(np.rint(points).astype(int)).tolist()]


def share(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """The part of a step that one rank works on: every world_size-th, so that lengths are spread evenly."""
    return items[rank::world_size]
