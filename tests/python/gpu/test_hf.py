"""transformers' models on the device against themselves on the CPU, through the adapter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thack.config import SamplingSettings
from thack.generation.sampler import GenerationRequest, generate
from thack.models.batch import Batch
from thack.models.load import as_language_model

from .host import HostCopies
from .small import VOCAB, relative_error, sequences, tokenizer

transformers = pytest.importorskip("transformers")

SPECIAL = {"eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": False}


def model(kind: str, device: torch.device | str = "cpu") -> Any:
    torch.manual_seed(0)
    if kind == "t5":
        made = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
                **SPECIAL,
            )
        )  # fmt: skip
    elif kind == "llama":
        made = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=64, **SPECIAL,
            )
        )  # fmt: skip
    else:
        made = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, **SPECIAL
            )
        )
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(20)
    return as_language_model(made.eval().to(device), tokenizer(), role="student")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_logits_and_gradients(cuda: torch.device, kind: str) -> None:
    """A card's attention in float32 may multiply in a shorter format."""
    found = []
    for device in ("cpu", cuda):
        ours, batch = model(kind, device), Batch.of(sequences(), device)
        with HostCopies(len(batch.labels_N) * VOCAB):
            logits_NV = ours(batch)
            logits_NV.logsumexp(1).sum().backward()
        assert logits_NV.device.type == torch.device(device).type
        found.append([logits_NV, *(p.grad for p in ours.parameters() if p.grad is not None)])
    for theirs, mine in zip(*found, strict=True):
        assert relative_error(mine, theirs) < 2e-3 or theirs.abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_responses(cuda: torch.device, kind: str) -> None:
    prompts = [s.prompt_ids for s in sequences(12)]
    request = GenerationRequest(sampling=SamplingSettings(), max_new_tokens=6, seed=3, batch_size=8)
    with HostCopies(VOCAB):
        written = [generate(model(kind, device), prompts, request, examples=range(12)) for device in ("cpu", cuda)]
    equal = [np.array_equal(ours, theirs) for ours, theirs in zip(*written, strict=True)]
    assert np.mean(equal) > 0.8
