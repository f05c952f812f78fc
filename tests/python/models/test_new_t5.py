"""A T5 from scratch: the same for the same seed, saved and loaded whole, trained as any other model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from thack.config import ArchitectureSettings
from thack.data.tokenizer import Tokenizer
from thack.errors import UsageError
from thack.models.load import load_model, new_model

SHAPE = ArchitectureSettings(family="encoder-decoder", hidden_size=16, num_layers=1, num_heads=2)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def f(x)", "Return x."], 260)


def test_seeds_and_saving(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = new_model(SHAPE, tokenizer, 3)
    assert model.is_encoder_decoder
    assert model.fingerprint() == new_model(SHAPE, tokenizer, 3).fingerprint()
    assert model.fingerprint() != new_model(SHAPE, tokenizer, 4).fingerprint()
    model.save(tmp_path)
    assert load_model(tmp_path).fingerprint() == model.fingerprint()


def test_a_width_that_does_not_divide_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="heads"):
        new_model(replace(SHAPE, hidden_size=17), tokenizer, 0)
