"""Three models that differ, as small as they can be."""

from __future__ import annotations

import torch

from thack.config import ArchitectureSettings
from thack.data.tokenizer import Tokenizer
from thack.models.load import new_decoder
from thack.models.native.llama import Llama


def sharp(tokenizer: Tokenizer, seed: int) -> Llama:
    """A model of width 16 that is sure enough of itself to differ from another."""
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2, max_positions=64), tokenizer, seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    return model.eval()
