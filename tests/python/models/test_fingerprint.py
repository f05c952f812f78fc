"""What names a model: cheap by default, of all its numbers on request, comparable with what was recorded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from thack.config import ArchitectureSettings, LoadSettings
from thack.models import checkpoint
from thack.models.checkpoint import SAMPLED, fingerprint_like
from thack.models.load import load_model, new_decoder
from thack.models.native.llama import Llama

WIDE = ArchitectureSettings(hidden_size=128, num_heads=2, num_layers=2)
PLACES = 64 * 64  # numbers of one tensor that a sample reads


@pytest.fixture
def model(tokenizer: Any) -> Llama:
    return new_decoder(WIDE, tokenizer, 0)


def test_it_says_what_it_is(model: Llama) -> None:
    assert model.fingerprint().startswith(SAMPLED) and model.fingerprint(full=True).startswith("sha256:")
    assert model.fingerprint() == model.fingerprint(full=False) != new_decoder(WIDE, model.tokenizer, 1).fingerprint()


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_one_step_of_training_makes_another_model(model: Llama, make: Any, make_sequences: Any) -> None:
    from thack.models.batch import Batch

    before = model.fingerprint()
    model(Batch.of(make_sequences([(5, 9), (2, 4)]))).logsumexp(1).sum().backward()
    make(model.parameters(), lr=1e-4).step()
    assert model.fingerprint() != before


@pytest.mark.parametrize("name", ["embedding.weight", "blocks.1.qkv.weight", "norm.weight"])
def test_any_tensor_counts_and_so_does_its_name(model: Llama, name: str) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.state_dict()[name].add_(1e-3)
    assert other.fingerprint() != model.fingerprint()
    weights = {"a": torch.zeros(3, 4), "b": torch.ones(3, 4)}
    swapped = {"a": weights["b"], "b": weights["a"]}
    reshaped = {"a": weights["a"].view(4, 3), "b": weights["b"]}
    assert len({checkpoint.fingerprint({}, w, full=False) for w in (weights, swapped, reshaped)}) == 3


def test_a_sample_reads_little_from_end_to_end_and_a_full_hash_all() -> None:
    large = torch.arange(1_000_003, dtype=torch.float32).view(-1, 1)
    seen = checkpoint._sample(large)
    assert len(seen) == PLACES and seen[0] == 0 and seen[-1] > 1_000_003 - 128 and len(seen.unique()) == PLACES
    for size in (1, PLACES - 1, PLACES, PLACES + 1, 2 * PLACES + 7):
        found = checkpoint._sample(torch.arange(size))
        assert len(found) == min(size, PLACES) and len(found.unique()) == len(found)
    edited = large.clone()
    edited[int(seen[63]) + 1] = -1.0  # just behind the first run
    same, different = (
        [checkpoint.fingerprint({}, {"w": w}, full=full) for w in (large, edited)] for full in (False, True)
    )
    assert same[0] == same[1] and different[0] != different[1]


def test_number_format_layout_and_place_do_not_count(model: Llama, tmp_path: Path) -> None:
    model.to(torch.bfloat16).save(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").touch()
    for full in (False, True):
        assert load_model(tmp_path / "a").fingerprint(full=full) == model.fingerprint(full=full)
    w = torch.randn(300, 200)
    prints = {checkpoint.fingerprint({}, {"w": v}, full=False) for v in (w, w.T.contiguous().T)}
    assert len(prints) == 1


def test_a_model_loaded_with_a_full_hash_gives_it_everywhere(model: Llama, tmp_path: Path) -> None:
    model.save(tmp_path)
    asked = load_model(tmp_path, options=LoadSettings(full_hash=True))
    assert asked.fingerprint() == model.fingerprint(full=True)
    through = load_model(tmp_path, options=LoadSettings(full_hash=True, backend="transformers"))
    assert through.fingerprint() == asked.fingerprint()


def test_what_was_recorded_says_what_to_compare(model: Llama) -> None:
    for full in (False, True):
        recorded = model.fingerprint(full=full)
        assert fingerprint_like(recorded, model) == recorded
