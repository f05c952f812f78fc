"""Which sequences form which step: a pure function of (plan, seed, epoch, step), for any number of ranks.

So resuming needs integers only, and every rank knows the whole step without asking the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from thack.errors import UsageError
from thack.runtime.ranks import Rank
from thack.targets.keys import Stream, run_words

T = TypeVar("T")
_POOL_BATCHES = 16  # batches in a pool that is sorted by length: wide enough to save padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Consecutive steps of one epoch whose responses are sampled at one time."""

    epoch: int
    first_step: int  # optimizer steps before it, over all epochs
    batches: tuple[np.ndarray, ...]  # positions in the data set, one array per step

    @property
    def positions(self) -> np.ndarray:
        return np.concatenate(self.batches)

    @property
    def end_step(self) -> int:
        """Optimizer steps at its end, over all epochs."""
        return self.first_step + len(self.batches)

    def batch(self, sequences: Sequence[T], step: int) -> Sequence[T]:
        """Of this window's sequences, in the order of `positions`, those of optimizer step `step`."""
        sizes = [len(batch) for batch in self.batches]
        first = sum(sizes[: step - self.first_step])
        return sequences[first : first + sizes[step - self.first_step]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`num_sequences` in batches of `batch_size`, reshuffled every epoch; the last batch may be smaller.

    With `lengths`, batches are taken from pools that are sorted by length, so that little of them is padding.
    """

    num_sequences: int
    batch_size: int
    seed: int
    total_steps: int
    micro_batch_size: int = 0  # sequences per forward on each rank; 0: all at once
    window_steps: int = 0  # 0: a window is an epoch
    lengths: np.ndarray | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_sequences // self.batch_size)

    @property
    def num_epochs(self) -> int:
        return -(-self.total_steps // self.steps_per_epoch)

    def micro_batches(self, batch: Sequence[T], rank: Rank) -> Iterator[tuple[Sequence[T], bool]]:
        """A rank's part of a step in forwards of at most `micro_batch_size`, and whether each of them counts.

        Every rank makes the same number of forwards, since each may communicate. A rank with fewer sequences adds
        padding: forwards of another rank's sequence that do not count.
        """
        own = share(batch, rank.rank, rank.world_size)
        most = -(-len(batch) // rank.world_size)
        size = min(self.micro_batch_size or most, most)
        for start in range(0, most, size):
            part = own[start : start + size]
            yield (part, True) if part else (batch[:1], False)

    def window(self, step: int) -> Window:
        """The window of optimizer step `step`, counted from 0."""
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
        # The short batch stays last: elsewhere it would change with the pool.
        full = len(batches) - (self.num_sequences % self.batch_size != 0)
        mixed = shuffled(full, self.seed, epoch, stream=Stream.BATCHES)
        return [batches[i] for i in mixed] + batches[full:]

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _by_length(self, pool: np.ndarray) -> np.ndarray:
        assert self.lengths is not None
        ragged = len(pool) % self.batch_size
        body, end = pool[: len(pool) - ragged], pool[len(pool) - ragged :]
        return np.concatenate([body[np.argsort(self.lengths[body], kind="stable")], end])


def shuffled(count: int, seed: int, epoch: int, stream: Stream = Stream.POSITIONS) -> np.ndarray:
    """A permutation of range(count), the same for every version of NumPy."""
    return np.argsort(run_words(seed, stream, epoch, count=count), kind="stable")


def plan_steps(num_sequences: int, batch_size: int, epochs: int, steps: int) -> int:
    """Optimizer steps of a run: `steps` if it is not 0, else `epochs` passes."""
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
    """The part of a step that one rank computes: every world_size-th item, so that lengths are spread evenly."""
    return items[rank::world_size]
