"""Weights of 4 bits by bitsandbytes."""

from __future__ import annotations

from typing import Any

_REPACKS = "support_avx512bf16_for_cpu"  # bitsandbytes' name for it, in each of its linear layers


def keep_differentiable(model: Any) -> None:
    """Let no forward rearrange weights of 4 bits for inference.

    On a CPU with AVX-512 BF16, bitsandbytes does so in the first forward without gradients, for good. From then on no
    gradient passes through the layer, and its products are rounded to bfloat16: a student that was evaluated once would
    no longer learn.
    """
    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)
