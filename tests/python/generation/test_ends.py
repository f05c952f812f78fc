"""Responses that reached the maximum are counted wherever they come to be, and many of them are a warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import thack
from thack.config import ArchitectureSettings, DataSettings, SamplingSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.generation.sampler import GenerationRequest
from thack.generation.sources import Online
from thack.models.load import new_decoder
from thack.models.native.llama import Llama
from thack.runtime.progress import SILENT, Progress

LENGTH = 4


def decoder(end_logit: float) -> Llama:
    """A model that ends a response at once, or never."""
    tokenizer = Tokenizer.train(["def read(path): reads the file"] * 3, 264)
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, seed=0)
    with torch.no_grad():
        hidden = torch.ones(16)
        model.norm.weight.fill_(1.0)
        model.embedding.weight.copy_(hidden + 0.01 * torch.randn(model.embedding.weight.shape))
        model.lm_head.weight[tokenizer.eos_id] = hidden * end_logit
    return model


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def __getattr__(self, name: str) -> object:
        return getattr(SILENT, name)


def notes() -> tuple[Progress, list[str]]:
    found = Notes()
    return found, found.lines  # type: ignore[return-value]


@pytest.mark.parametrize(("end_logit", "warned"), [(9.0, False), (-9.0, True)])
def test_an_online_source_warns_once(end_logit: float, warned: bool) -> None:
    model = decoder(end_logit)
    prompt = model.tokenizer.encode("def read")
    prompts = [
        TokenSequence(example=i, prompt_id=str(i), prompt_ids=prompt, response_ids=np.empty(0, np.int32))
        for i in range(80)
    ]
    progress, lines = notes()
    request = GenerationRequest(sampling=SamplingSettings(), max_new_tokens=LENGTH, seed=0)
    source = Online(model, prompts, request, progress=progress)
    for epoch in range(2):
        source.sequences(np.arange(80), epoch)
    assert source.ends.responses == 160
    assert len(lines) == warned
    if warned:
        assert source.ends.truncated == 160 and source.ends.finished == 0
        assert "80 of 80 responses (100%) reached the maximum length" in lines[0]


def test_generate_and_a_generating_capture_count_them(tmp_path: Path) -> None:
    decoder(-9.0).save(tmp_path / "m")
    (tmp_path / "p.jsonl").write_text('{"prompt": "def read"}\n{"prompt": "reads"}\n')
    data = DataSettings(path=str(tmp_path / "p.jsonl"), max_response_tokens=LENGTH)
    progress, lines = notes()
    model = str(tmp_path / "m")
    found = thack.generate(thack.GenerateSettings(model=model, data=data, out=tmp_path / "r"), progress=progress)
    assert (found.finished, found.truncated) == (0.0, 1.0)
    assert any("2 of 2 responses (100%) reached the maximum length" in line for line in lines)
    lines.clear()
    settings = thack.CacheSettings(teacher=model, data=data, generate=True, top_k=4, out=tmp_path / "c")
    thack.cache_logits(settings, progress=progress)
    assert any("2 of 2 responses (100%) reached the maximum length" in line for line in lines)
    inspected = thack.inspect_cache(tmp_path / "c")
    assert (inspected.finished, inspected.truncated) == (0.0, 1.0)
