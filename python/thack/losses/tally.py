"""Sums over the tokens of a step that a loss leaves behind: how stale its samples are, how it was weighted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Tally:
    """Named sums. They stay on the device until `take`, so that counting does not wait for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        """Add the sum of each tensor to the sum of its name."""
        for name, value in values.items():
            total = value.detach().sum(dtype=torch.float32)
            self._sums[name] = self._sums[name] + total if name in self._sums else total

    def take(self) -> Mapping[str, float]:
        """The sums so far, by name; the next ones begin at 0."""
        found = {name: float(total) for name, total in self._sums.items()}
        self._sums = {}
        return found
