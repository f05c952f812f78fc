"""The ranks of one run: how many, and the few things that they agree on. One process is a team of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from thack.runtime.ranks import Rank

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Team:
    """Collectives over all ranks; with one rank nothing is communicated and torch.distributed not touched."""

    rank: Rank = field(default_factory=Rank)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def world_size(self) -> int:
        return self.rank.world_size

    @property
    def is_first(self) -> bool:
        return self.rank.is_first

    def sum(self, value: float) -> float:
        """The sum over ranks, in float64, the same on all of them."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def any(self, flag: bool) -> bool:
        """Whether one rank says yes: how all stop at the same step."""
        return self.sum(float(flag)) > 0

    def gather(self, items: Sequence[T]) -> list[T]:
        """All ranks' items, rank after rank, on every rank."""
        if self.world_size == 1:
            return list(items)
        parts: list[list[T]] = [[] for _ in range(self.world_size)]
        torch.distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()
