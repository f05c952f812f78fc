"""A teacher that costs nothing, and sequences for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from thack.config import CacheSettings
from thack.data.eos import Ends
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.models.batch import Batch
from thack.models.protocol import DecodeState, HeadForm, LoadFacts

VOCAB = 50


class FakeTokenizer(Tokenizer):
    """A size, an end and a fingerprint: it has no files and splits no text."""

    ends = Ends(eos=0)
    eos_id = 0
    pad_id = 0

    def __init__(self, name: str = "fake", size: int = VOCAB) -> None:
        self.name, self.size = name, size

    def save(self, directory: Path) -> None:
        (directory / "tokenizer.json").write_text("{}")

    def fingerprint(self) -> str:
        return f"sha256:tokenizer-{self.name}"


class FakeTeacher(torch.nn.Module):
    """Logits are a fixed function of the previous token and the position; peaked enough to have heads."""

    is_encoder_decoder = False
    routers = None
    facts = LoadFacts()
    head_form = HeadForm()
    full_hash = False
    max_positions = 64

    def __init__(self, vocab: int = VOCAB, name: str = "fake", tokenizer: str = "fake") -> None:
        super().__init__()
        self.vocab_size = vocab
        self.tokenizer: Tokenizer = FakeTokenizer(tokenizer, vocab)
        self.name = name
        generator = torch.Generator().manual_seed(7)
        self.table = 3 * torch.randn(vocab, vocab, generator=generator)
        self.calls = 0
        self.poison: float | None = None

    def head(self) -> torch.nn.Linear:
        return torch.nn.Linear(8, self.vocab_size)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def start(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> DecodeState:
        raise AssertionError("the fake teacher scores responses and writes none")

    def save(self, directory: Path, *, dtype: torch.dtype | None = None) -> None:
        raise AssertionError("the fake teacher has no files")

    def fingerprint(self, *, full: bool | None = None) -> str:
        return f"{'sha256' if self.full_hash or full else 'sample'}:teacher-{self.name}"

    def forward(self, batch: Batch, *, project: bool = True) -> Tensor:
        self.calls += 1
        rows = []
        for prompt, response in zip(batch.prompts, batch.responses, strict=True):
            previous = np.concatenate([prompt[-1:], response[:-1]]).astype(np.int64)
            bias = torch.arange(len(previous), dtype=torch.float32)[:, None] * 0.1
            rows.append(self.table[torch.from_numpy(previous)] * (1 + bias))
        logits = torch.cat(rows)
        if self.poison is not None:
            logits[len(logits) // 2, 3] = self.poison
        return logits


def make_sequences(count: int, *, seed: int = 0, vocab: int = VOCAB) -> list[TokenSequence]:
    rng = np.random.default_rng(seed)
    return [
        TokenSequence(
            example=i,
            prompt_id=f"p{i:04d}-ü",
            prompt_ids=rng.integers(0, vocab, rng.integers(1, 9)).astype(np.int32),
            response_ids=rng.integers(0, vocab, rng.integers(1, 12)).astype(np.int32),
        )
        for i in range(count)
    ]


@pytest.fixture
def teacher() -> FakeTeacher:
    return FakeTeacher()


@pytest.fixture
def settings(tmp_path: Path) -> CacheSettings:
    """Three shards or so of forty sequences."""
    return CacheSettings(out=tmp_path / "cache", kind="dense", shard_tokens=100, batch_size=4, device="cpu")
