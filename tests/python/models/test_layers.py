"""A model of some layers of another: what transformers computes with the others taken out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from thack.errors import ModelError, UsageError
from thack.models.batch import Batch
from thack.models.layers import keep_layers
from thack.models.load import load_model

from .architectures import build
from .compat import reference
from .small import make_sequences, tokenizer

SEQUENCES = make_sequences([(5, 4), (1, 1), (3, 7)])
KEPT = (0, 2, 3)


def save(directory: Path, kind: str, dtype: torch.dtype = torch.float32) -> Path:
    network = build(kind, num_hidden_layers=5).to(dtype)
    network.save_pretrained(directory)
    tokenizer().save(directory)
    return directory


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_logits_are_those_of_the_kept_layers(kind: str, tmp_path: Path) -> None:
    keep_layers(save(tmp_path / "whole", kind), KEPT, tmp_path / "cut")
    network = build(kind, num_hidden_layers=5)
    network.model.layers = torch.nn.ModuleList(network.model.layers[i] for i in KEPT)
    network.config.num_hidden_layers = len(KEPT)
    with torch.no_grad():
        expected = torch.cat([reference(network, s) for s in SEQUENCES])
        found = load_model(tmp_path / "cut")(Batch.of(SEQUENCES))
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, atol=1e-4, rtol=1e-4)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    assert len(config.get("layer_types", KEPT)) == 3


def test_weights_stay_in_their_number_format(tmp_path: Path) -> None:
    keep_layers(save(tmp_path / "whole", "llama", torch.bfloat16), KEPT, tmp_path / "cut")
    assert load_model(tmp_path / "cut").facts.dtype == torch.bfloat16


@pytest.mark.parametrize("layers", [(), (0, 5), (2, 1), (1, 1), (-1, 2)])
def test_layers_that_are_not_there_are_refused(layers: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has 5, numbered from 0 to 4"):
        keep_layers(save(tmp_path / "whole", "llama"), layers, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def test_another_family_is_refused(tmp_path: Path) -> None:
    build("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no native decoder for GPT2LMHeadModel"):
        keep_layers(tmp_path, (0,), tmp_path / "cut")
