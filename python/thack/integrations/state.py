"""A model that somebody else trains, looked at and left as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def as_it_was(model: Any) -> Iterator[None]:
    """Every submodule's train mode, and the random state of Python, numpy, torch and its devices, are put back."""
    modes = [(module, module.training) for module in model.modules()]
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
            for module, mode in modes:
                module.training = mode


def is_sharded(model: Any) -> bool:
    """Whether no rank holds all weights: FSDP's or ZeRO-3's, whose forward is a collective."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return True
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def agreed(flag: bool, device: torch.device) -> bool:
    """What the first rank says, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    word = torch.tensor(float(flag), device=device)
    torch.distributed.broadcast(word, src=0)
    return bool(word)
