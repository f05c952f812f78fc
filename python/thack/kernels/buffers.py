"""Tensors as the arrays that Rust reads: no copy, bf16 and f16 as 16-bit words."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thack import _native
from thack.errors import UsageError
from thack.runtime.threads import threads

_FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
Array = np.ndarray[Any, Any]


@cache
def _threads(wanted: str | None) -> int:
    """Asked once per value of the variable: reading cgroup files costs more than drawing a small batch."""
    return threads()


def rows(logits_NV: Tensor) -> tuple[Array, str, int]:
    """The elements of a contiguous CPU tensor, the name of their format, and V."""
    if logits_NV.dim() != 2:
        raise UsageError(f"logits have {logits_NV.dim()} dimensions, not 2 (rows, vocabulary)")
    if logits_NV.dtype not in _FORMATS:
        raise UsageError(f"logits are {logits_NV.dtype}", hint="use float32, bfloat16 or float16")
    granted = _threads(os.environ.get("THACK_NUM_THREADS"))
    _native.set_num_threads(min(granted, torch.get_num_threads()))
    flat = logits_NV.detach().contiguous().view(-1)
    words = flat if flat.dtype == torch.float32 else flat.view(torch.uint16)
    return words.numpy(), _FORMATS[logits_NV.dtype], logits_NV.shape[1]


def key_words(keys_N4: Tensor) -> Array:
    """int64 [N·4]: epoch, prompt, sample, position of each row."""
    return np.ascontiguousarray(keys_N4.detach().cpu().numpy(), dtype=np.int64).reshape(-1)
