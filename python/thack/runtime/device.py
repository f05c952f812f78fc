"""Which device and which number format a run uses, and why: the reason is recorded.

torch is imported inside the functions: `thack doctor` and every light command import this module without it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from thack.errors import UsageError
from thack.runtime.memory import peak_bytes
from thack.runtime.ranks import current_rank
from thack.runtime.threads import apply_threads, threads

if TYPE_CHECKING:
    import torch

__all__ = [
    "apply_threads",
    "choose_device",
    "choose_dtype",
    "cpu_flags",
    "fast_bf16_flag",
    "peak_memory_bytes",
    "threads",
]

_MIN_WIDTH = 128  # hidden size; smaller products are bound by overhead, and autocast's casts only cost


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is this rank's GPU where there is one, else Apple's, else the CPU."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", current_rank().local_rank % torch.cuda.device_count())
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is unknown", hint="use auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r}: no GPU is usable here", hint="use `device = cpu`")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"device {name!r}: there are {count} GPUs, counted from 0", hint="use `device = auto`")
    return device


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has used: of its GPU, or of the machine."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return peak_bytes()


def choose_dtype(name: str, device: torch.device, *, width: int | None = None) -> tuple[torch.dtype, str]:
    """The number format of products, and the reason in one phrase. `width` is the model's hidden size, if known."""
    import torch

    if name == "float32":
        return torch.float32, "asked for"
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device)[0] >= 8
        if name == "bfloat16":
            return torch.bfloat16, "asked for" if native else "asked for, though this GPU only emulates it"
        if native:
            return torch.bfloat16, "native on this GPU"
        return torch.float32, "this GPU has no native bfloat16"
    if device.type != "cpu":
        return (torch.bfloat16, "asked for") if name == "bfloat16" else (torch.float32, f"default on {device.type}")
    return _cpu_dtype(name, width)


def _cpu_dtype(name: str, width: int | None) -> tuple[torch.dtype, str]:
    import torch

    flag = fast_bf16_flag()
    if name == "bfloat16":
        slow = "asked for, though this CPU emulates it, many times slower than float32"
        return torch.bfloat16, f"asked for ({flag})" if flag else slow
    if flag is None:
        return torch.float32, "bfloat16 is emulated on this CPU"
    if width is not None and width < _MIN_WIDTH:
        return torch.float32, f"bfloat16 gains nothing at width {width}"
    speedup = bf16_speedup()
    chosen = torch.bfloat16 if speedup > 1.3 else torch.float32
    return chosen, f"a bfloat16 product takes {1 / speedup:.2f} of float32's time here ({flag})"


@cache
def bf16_speedup(size: int = 512) -> float:
    """Measured: how many times faster a bfloat16 matrix product is than a float32 one on this CPU."""
    import torch

    with torch.inference_mode():
        full = torch.ones(size, size)
        half = full.to(torch.bfloat16)
        return _best_time(lambda: full @ full) / _best_time(lambda: half @ half)


def _best_time(work: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times)


def fast_bf16_flag() -> str | None:
    """The instruction set by which this CPU multiplies bfloat16 natively, if it has one."""
    return next((flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in cpu_flags()), None)


@cache
def cpu_flags() -> frozenset[str]:
    """Feature flags of the first CPU as Linux names them; empty elsewhere."""
    if platform.system() != "Linux":
        return frozenset()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
