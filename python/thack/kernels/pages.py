"""Large buffers on the CPU whose memory is used again, so that a step does not pay for new pages.

The allocator returns memory of many MB to the system when a tensor dies, and the system clears every page of the next
one: several times what the kernel itself takes. A buffer comes back when the last tensor on its storage is gone.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

_SMALLEST = 1 << 20  # bytes: below it the allocator keeps its pages itself
_MOST_FREE = 2  # buffers: the gradient of one batch, and of the one before it
_MOST_BYTES = 1 << 30  # of one kept buffer


class Pages:
    """Free buffers. Threads may share it: a deque's own operations are atomic, and nothing else is kept."""

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=_MOST_FREE)  # one too many drops the oldest

    def copy(self, tensor: Tensor) -> Tensor:
        """A contiguous copy of a CPU tensor, in memory of a buffer that is free where one is large enough."""
        size = tensor.numel() * tensor.element_size()
        if not _SMALLEST <= size <= _MOST_BYTES:
            return tensor.clone(memory_format=torch.contiguous_format)
        memory = self._take(size)
        lent = memory[:size]  # an array of its own: the storage of the tensor keeps it alive, and nothing else does
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent).view(tensor.dtype).view(tensor.shape).copy_(tensor)

    def _take(self, size: int) -> np.ndarray:
        for _ in range(_MOST_FREE):
            try:
                memory = self._free.popleft()
            except IndexError:
                break
            if len(memory) >= size:
                return memory
        return np.empty(size, np.uint8)
