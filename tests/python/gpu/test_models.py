"""The native decoder on the device against itself on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thack.config import SamplingSettings
from thack.generation.sampler import GenerationRequest, generate
from thack.models.batch import Batch

from .host import HostCopies
from .small import VOCAB, model, relative_error, sequences


@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [(torch.float32, False, 1e-3), (torch.float32, True, 2e-2), (torch.bfloat16, False, 5e-2)],
    ids=["float32", "autocast", "bfloat16"],
)
def test_logits_and_gradients(cuda: torch.device, dtype: torch.dtype, autocast: bool, tolerance: float) -> None:
    """A card's attention in float32 may multiply in a shorter format."""
    batch, on_cpu = Batch.of(sequences()), model(0)
    upstream_NV = torch.randn(len(batch.labels_N), VOCAB, generator=torch.Generator().manual_seed(1))
    expected_NV = on_cpu(batch)
    expected_NV.backward(upstream_NV)
    ours, there = model(0, cuda, dtype), Batch.of(sequences(), cuda)
    with HostCopies(len(batch.labels_N) * VOCAB):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            logits_NV = ours(there)
        assert logits_NV.device.type == "cuda"
        logits_NV.backward(upstream_NV.to(cuda, logits_NV.dtype))
    assert logits_NV.dtype == (torch.bfloat16 if autocast else dtype)
    assert relative_error(logits_NV, expected_NV) < tolerance
    for (name, mine), theirs in zip(ours.named_parameters(), on_cpu.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None and mine.grad.dtype == dtype
        assert relative_error(mine.grad, theirs.grad) < 2 * tolerance, name


@pytest.mark.parametrize(
    "sampling",
    [SamplingSettings(greedy=True), SamplingSettings(), SamplingSettings(temperature=0.7, top_k=20)],
    ids=["greedy", "plain", "top-k"],
)
def test_responses(cuda: torch.device, sampling: SamplingSettings) -> None:
    """Nearly all of them are equal: where two draws are as good as equal, the last bit decides."""
    prompts = [s.prompt_ids for s in sequences(24)]
    request = GenerationRequest(sampling=sampling, max_new_tokens=8, seed=3, batch_size=20)
    written = []
    for device in ("cpu", cuda):
        with HostCopies(VOCAB):
            written.append(generate(model(0, device), prompts, request, examples=range(24)))
    equal = [np.array_equal(ours, theirs) for ours, theirs in zip(*written, strict=True)]
    assert np.mean(equal) > 0.8
