"""What the callback reads of another trainer, and a model that another trainer owns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import nn


class TrainerState(Protocol):
    """transformers' state of a run."""

    global_step: int
    epoch: float | None
    is_world_process_zero: bool
    log_history: list[dict[str, float]]


class TrainerControl(Protocol):
    """What a callback may ask of transformers' loop."""

    should_training_stop: bool


class Logs(Protocol):
    """transformers' Trainer, as far as it logs to its trackers."""

    def log(self, logs: dict[str, float]) -> None: ...


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Every submodule's train mode, and the random state of Python, numpy, torch and its devices, are restored."""
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


def is_sharded(model: nn.Module) -> bool:
    """Whether no rank has all weights: FSDP's or ZeRO-3's model, whose forward is a collective."""
    from torch.distributed.fsdp import FullyShardedDataParallel  # seconds to import: only beside another trainer
    from torch.distributed.tensor import DTensor

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return True
    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def broadcast_from_rank0(flag: bool, device: torch.device) -> bool:
    """The first rank's flag, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    value = torch.tensor(float(flag), device=device)
    torch.distributed.broadcast(value, src=0)
    return bool(value)
