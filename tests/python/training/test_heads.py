"""Models of transformers that scale or cap their logits can be fused: what they do is what `Projection` does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from thack.config import LossSettings
from thack.models.hf.model import HuggingFaceModel
from thack.targets import Projection
from thack.training.objective import has_plain_head

from . import small

SIZES: dict[str, Any] = {
    "vocab_size": 264, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 48,
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], float, float | None]] = {
    "Llama": ({}, 1.0, None),
    "Gemma2": ({"final_logit_softcapping": 0.3}, 1.0, 0.3),
    "Cohere": ({"logit_scale": 0.25}, 0.25, None),
    "Granite": ({"logits_scaling": 8.0}, 0.125, None),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_scales_and_caps_are_known(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    changes, scale, cap = KINDS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **changes, pad_token_id=0, eos_token_id=1, bos_token_id=2)
    network = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        network.get_output_embeddings().weight.mul_(20)
    model = HuggingFaceModel(network, small.tokenizer())
    head = Projection.of(model)
    assert (head.scale, head.softcap) == (scale, cap)
    assert has_plain_head(model, LossSettings(fused=True))
