"""What a batch of a trainer carries of its response tokens: the rows that predict them, and the teacher's target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thack.targets.types import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedLabels:
    """The response tokens of a batch with the teacher's target.

    It takes the place of a label tensor: the Trainer moves it to the device and counts its tokens, as it would count
    labels that are not −100.
    """

    rows_N: Tensor  # int64, index into B·T of the logits row that predicts each token
    labels_N: Tensor  # int64
    target: Target
    width: int  # ids on which student and teacher are compared
    router_weight: float = 0.0  # of the balancing loss of a mixture of experts

    def __len__(self) -> int:
        return len(self.labels_N)

    def to(self, device: torch.device | str, **_: Any) -> CachedLabels:
        """The same labels on another device.

        Args:
            device: As of torch.

        Returns:
            A copy; copies from pinned memory do not wait.
        """
        rows_N, labels_N = (t.to(device, non_blocking=True) for t in (self.rows_N, self.labels_N))
        return replace(self, rows_N=rows_N, labels_N=labels_N, target=self.target.to(device))

    def __getitem__(self, _: Any) -> CachedLabels:
        """The Trainer leaves the first column of causal labels out when it counts; every token here counts."""
        return self

    def ne(self, ignored: int) -> Tensor:
        """`labels != ignored`, as trainers count tokens: there is no padding among them.

        Args:
            ignored: Their mark of padding.

        Returns:
            bool, one True per response token.
        """
        return torch.ones(len(self), dtype=torch.bool, device=self.labels_N.device)
