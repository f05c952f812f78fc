"""Copies to the host, seen on a card and on the simulated device alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class HostCopy(AssertionError):
    """A copy to the host of at least as many elements as the test allows for."""


class HostCopies(TorchDispatchMode):
    """Raises HostCopy where a tensor of `limit` elements or more leaves the device."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.most = 0  # elements of the largest copy

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports the compiler, for seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (aten._to_copy.default, aten.copy_.default):
            source = args[1] if func is aten.copy_.default else args[0]
            if source.device.type == "cuda" and isinstance(result, Tensor) and result.device.type == "cpu":
                self.most = max(self.most, source.numel())
        if self.most >= self.limit:
            raise HostCopy(f"{self.most:,} elements were copied to the host; {self.limit:,} are too many")
        return result
