"""Tensors as the arrays that Rust reads: no copy; bf16 and f16 as 16-bit integers."""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from thack import _native
from thack.errors import UsageError
from thack.runtime.threads import threads

_FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class Rows(NamedTuple):
    """The elements of a logits tensor on the CPU, row after row."""

    elements: np.ndarray
    format: str
    width: int


@cache
def _threads(wanted: str | None) -> int:
    """Asked once per value of the variable: reading cgroup files costs more than drawing a small batch."""
    return threads()


def use_torch_threads() -> None:
    """The kernels use as many threads as torch does, within the limit of `thack.runtime.threads`."""
    granted = _threads(os.environ.get("THACK_NUM_THREADS"))
    _native.set_num_threads(min(granted, torch.get_num_threads()))


def rows(logits_NV: Tensor) -> Rows:
    """The memory of a contiguous CPU tensor; another is copied. UsageError for other shapes and number formats."""
    if logits_NV.dim() != 2:
        raise UsageError(f"logits have {logits_NV.dim()} dimensions, not 2 (rows, vocabulary)")
    if logits_NV.dtype not in _FORMATS:
        raise UsageError(f"logits are {logits_NV.dtype}", hint="use float32, bfloat16 or float16")
    flat = logits_NV.detach().contiguous().view(-1)
    bits = flat if flat.dtype == torch.float32 else flat.view(torch.uint16)
    return Rows(bits.numpy(), _FORMATS[logits_NV.dtype], logits_NV.shape[1])


def array(tensor: Tensor, dtype: type[np.generic], *shape: int) -> np.ndarray:
    """The numbers of a tensor of this shape, one after the other, on the CPU.

    Raises:
        UsageError: it has another shape, which may be as many numbers; or holds one that is no whole number of `dtype`.
    """
    if tensor.shape != shape:
        raise UsageError(f"a tensor has shape {tuple(tensor.shape)}, not {shape}")
    given = tensor.detach().cpu().numpy()
    found = np.ascontiguousarray(given, dtype=dtype)
    if found.dtype.kind == "i" and found.dtype != given.dtype and bool((wrong := found != given).any()):
        raise UsageError(f"{given[wrong][0]} is no {found.dtype}")
    return found.reshape(-1)
