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
from thack.schema.run import Order
from thack.targets.keys import Stream
from thack.training.order import Permutation

T = TypeVar("T")
_POOL_BATCHES = 16  # batches in a pool that is sorted by length: wide enough to save padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Consecutive steps of one epoch whose sequences are taken at one time."""

    epoch: int
    first_step: int  # optimizer steps before it, over all epochs
    num_steps: int
    batch_size: int  # of all steps but perhaps the last
    positions: np.ndarray  # in the data set, batch after batch

    @property
    def end_step(self) -> int:
        """Optimizer steps at its end, over all epochs."""
        return self.first_step + self.num_steps

    def batch(self, sequences: Sequence[T], step: int) -> Sequence[T]:
        """Of this window's sequences, in the order of `positions`, those of optimizer step `step`."""
        first = (step - self.first_step) * self.batch_size
        return sequences[first : first + self.batch_size]


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
    order: Order = "sorted"

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
        """The window of optimizer step `step`, counted from 0. Its cost and memory are those of its own batches."""
        epoch, within = divmod(step, self.steps_per_epoch)
        width = self.window_steps or self.steps_per_epoch
        first = within // width * width
        before = epoch * self.steps_per_epoch
        last = min(first + width, self.steps_per_epoch, self.total_steps - before)
        return Window(
            epoch=epoch,
            first_step=before + first,
            num_steps=last - first,
            batch_size=self.batch_size,
            positions=np.concatenate(self.batches(epoch, first, last)),
        )

    def batches(self, epoch: int, first: int, last: int) -> list[np.ndarray]:
        """Positions of batches `first` to `last` of an epoch. All batches of an epoch hold every position once."""
        numbers = np.arange(first, last)
        if self.lengths is not None:  # the short batch stays last: elsewhere it would change with its pool
            mixed = numbers < self._num_full
            if mixed.any():
                numbers[mixed] = self._permutation(self._num_full, epoch, Stream.BATCHES).at(numbers[mixed])
        pools = numbers // _POOL_BATCHES
        cut = self._pools(epoch, np.unique(pools))
        starts = numbers % _POOL_BATCHES * self.batch_size
        return [cut[int(pool)][start : start + self.batch_size] for pool, start in zip(pools, starts, strict=True)]

    @property
    def _num_full(self) -> int:
        return self.num_sequences // self.batch_size

    def _pools(self, epoch: int, numbers: np.ndarray) -> dict[int, np.ndarray]:
        """By its number, each pool: positions of consecutive batches of an epoch's order."""
        size = self.batch_size * _POOL_BATCHES
        starts = numbers * size
        sizes = np.minimum(size, self.num_sequences - starts)
        places = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, sizes, strict=True)])
        positions = self._permutation(self.num_sequences, epoch, Stream.POSITIONS).at(places)
        pools = np.split(positions, np.cumsum(sizes)[:-1])
        return {int(number): self._by_length(pool) for number, pool in zip(numbers, pools, strict=True)}

    def _by_length(self, pool: np.ndarray) -> np.ndarray:
        if self.lengths is None:
            return pool
        whole = len(pool) - len(pool) % self.batch_size
        by_length = np.argsort(self.lengths[pool[:whole]], kind="stable")
        return np.concatenate([pool[by_length], pool[whole:]])

    def _permutation(self, count: int, epoch: int, stream: Stream) -> Permutation:
        return Permutation(count=count, seed=self.seed, stream=stream, epoch=epoch, order=self.order)


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
