"""A cache in batches for a loop of one's own: shuffled, shared by ranks, and resumed within an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from thack.data.sequence import TokenSequence
from thack.errors import MismatchError, UsageError
from thack.integrations.dataset import CacheDataset
from thack.targets.keys import Stream, run_words

Collate = Callable[[Sequence[TokenSequence]], Mapping[str, Any]]


class CacheLoader:
    """Batches of a cache; each `iter` is one epoch in an order of its own.

    The order is a function of seed and epoch alone. Rank r of n takes every n-th sequence of each step, and all ranks
    take equally many steps: a rest of fewer sequences than ranks is left out. `state_dict` counts the batches that were
    given, not those that workers have read ahead, so that a loop continues with the next one, as with torchdata's
    StatefulDataLoader.

    Args:
        dataset: The sequences.
        collate: Makes a batch of them, such as a `CacheCollator`.
        batch_size: Sequences of a batch on one rank.
        seed: Of the order.
        rank: This process.
        world_size: Number of processes.
        num_workers: Processes that read ahead; 0: none.
    """

    def __init__(
        self,
        dataset: CacheDataset,
        collate: Collate,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise UsageError(f"batch_size = {batch_size}, rank = {rank}, world_size = {world_size} cannot be")
        self._dataset, self._collate, self._batch_size, self._seed = dataset, collate, batch_size, seed
        self._rank, self._world_size, self._num_workers = rank, world_size, num_workers
        self._epoch, self._given = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        full, rest = divmod(len(self._dataset), self._batch_size * self._world_size)
        return full + (rest >= self._world_size)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """The batches of this epoch that were not given yet; the next `iter` is the next epoch."""
        batches = self._batches()[self._given :]
        loader = DataLoader(
            self._dataset, batch_sampler=batches, collate_fn=self._collate, num_workers=self._num_workers
        )
        for batch in loader:
            self._given += 1
            yield batch
        self._epoch, self._given = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loop is.

        Returns:
            Plain values, for any checkpoint.
        """
        return {"epoch": self._epoch, "batches": self._given, "cache": self._name(), "seed": self._seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another loop was.

        Args:
            state: What `state_dict` returned.

        Raises:
            MismatchError: the state is of another cache, seed, batch size or number of ranks.
        """
        if state["cache"] != self._name() or state["seed"] != self._seed:
            raise MismatchError(
                "the state of the loader is of another cache or order",
                details=[f"state  {state['cache']}, seed {state['seed']}", f"here   {self._name()}, seed {self._seed}"],
                hint="open the same cache with the same batch size, seed and number of ranks",
            )
        self._epoch, self._given = int(state["epoch"]), int(state["batches"])

    def _name(self) -> str:
        return f"{self._dataset.cache.meta.fingerprint} / {self._world_size} ranks of {self._batch_size}"

    def _batches(self) -> list[list[int]]:
        """Positions of each batch of the epoch."""
        count, step = len(self._dataset), self._batch_size * self._world_size
        order = np.argsort(run_words(self._seed, Stream.POSITIONS, self._epoch, count=count), kind="stable")
        steps = [order[start : start + step] for start in range(0, count, step)]
        return [one[self._rank :: self._world_size].tolist() for one in steps if len(one) >= self._world_size]
