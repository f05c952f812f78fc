"""Models and sequences that are as small as they can be, and differ."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from thack.config import ArchitectureSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.models.load import new_decoder
from thack.models.native.llama import Llama

VOCAB = 264


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def read(path): read the file at path", "class Queue: first in, first out"] * 3, VOCAB)


def model(seed: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Llama:
    """Two key-value heads for four heads, and a head that is sure enough of itself to have likely ids."""
    settings = ArchitectureSettings(hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=64)
    made = new_decoder(settings, tokenizer(), seed)
    with torch.no_grad():
        made.lm_head.weight.mul_(40)
    return made.to(device=device, dtype=dtype)


def sequences(count: int = 8, seed: int = 0) -> list[TokenSequence]:
    rng = np.random.default_rng(seed)
    return [
        TokenSequence(
            example=i,
            prompt_id=f"p{i}",
            prompt_ids=rng.integers(2, VOCAB, rng.integers(1, 9), dtype=np.int32),
            response_ids=rng.integers(1, VOCAB, rng.integers(1, 9), dtype=np.int32),
        )
        for i in range(count)
    ]


def relative_error(ours: Tensor, exact: Tensor) -> float:
    """‖ours − exact‖ / ‖exact‖, on the CPU."""
    return float((ours.detach().cpu().double() - exact.detach().double()).norm() / exact.detach().double().norm())
