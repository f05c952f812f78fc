"""The sizes that the GPU benchmarks run at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """N rows, H width of a head's input, V vocabulary, K kept ids; and a decoder with its batch."""

    rows: int = 8192
    hidden: int = 4096
    vocab: int = 128_256
    kept: int = 64
    sampled: int = 16
    drawn_rows: int = 1024  # from which one id each is drawn
    model_hidden: int = 2048
    layers: int = 16
    heads: int = 32
    kv_heads: int = 8
    intermediate: int = 8192
    sequences: int = 16
    prompt_tokens: int = 64
    response_tokens: int = 512
    new_tokens: int = 32  # of each generated response

    @property
    def tokens(self) -> int:
        """Response tokens of the decoder's batch."""
        return self.sequences * self.response_tokens


def fitting() -> Shapes:
    """Full size from 64 GiB of memory on; on a smaller card a quarter of the rows, and of the decoder's batch."""
    full = Shapes()
    if torch.cuda.get_device_properties(0).total_memory >= 64 << 30:
        return full
    return replace(full, rows=full.rows // 4, sequences=full.sequences // 4)
