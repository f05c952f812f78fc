"""Copies to the host, seen on a card and on the simulated device alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HostCopy(AssertionError):
    """A copy to the host of at least as many elements as the test allows for."""


aten = torch.ops.aten
READS = (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default)  # the last two: inference mode


class HostCopies(TorchDispatchMode):
    """Raises HostCopy where an operation on the device has a result of `limit` elements or more on the host."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's has no types
        self.limit = limit
        self.most = 0  # elements of the largest such result
        self.waits = 0  # single values that were read, for which all work before must end

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports the compiler, for seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(x.device.type == "cuda" for x in tensors((args, kwargs))):
            self.waits += func in READS
            self.most = max([self.most, *(x.numel() for x in tensors(result) if x.device.type == "cpu")])
        if self.most >= self.limit:
            raise HostCopy(f"{self.most:,} elements were copied to the host; {self.limit:,} are too many")
        return result


def tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
