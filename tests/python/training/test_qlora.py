"""An adapter on a frozen base model of 4 bits, through bitsandbytes on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("peft")
pytest.importorskip(
    "bitsandbytes", reason="SKIPPED: a base model of 4 bits needs bitsandbytes: pip install 'thack[qlora]'"
)

from thack.cache import Cache
from thack.checks import check_combination
from thack.config import (
    ArchitectureSettings,
    CheckpointSettings,
    DistillSettings,
    LoadSettings,
    LoraSettings,
    ParallelSettings,
)
from thack.errors import Preempted, UsageError
from thack.losses import forward_kl
from thack.models.batch import Batch
from thack.models.load import load_model, load_student, new_decoder
from thack.training import run_distill
from thack.training.plan import Plan
from thack.training.sharding import as_module

from .small import rows, tokenizer
from .world import build_world, distill_settings, signal_at

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
]
FOUR_BITS = '{"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}'
LORA = LoraSettings(rank=4, quantization=FOUR_BITS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a student whose layers fill blocks of 64 numbers."""
    root = build_world(tmp_path_factory.mktemp("world"))
    shape = ArchitectureSettings(hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, max_positions=48)
    new_decoder(shape, tokenizer(), 1).save(root / "wide")
    return root


def settings(world: Path, out: Path, **changes: Any) -> DistillSettings:
    given = {"student": str(world / "wide"), "lora": LORA, "epochs": 1, "teacher": "", "oracle": "", "eval_data": ""}
    every = CheckpointSettings(every_steps=1, keep=9)
    return distill_settings(world, out, **given | {"checkpoint": every} | changes)


def test_the_base_model_has_four_bits_and_the_adapter_alone_trains(world: Path) -> None:
    student = load_student(str(world / "wide"), LORA, seed=0, checkpoint=None, device="cpu")
    packed = [p for p in as_module(student).parameters() if not p.is_floating_point()]
    trained = [p for p in as_module(student).parameters() if p.requires_grad]
    whole = load_model(world / "wide", options=LoadSettings(backend="transformers"))
    layers = [m.weight for m in as_module(whole).modules() if isinstance(m, torch.nn.Linear) and m is not whole.head()]
    assert sum(p.nbytes for p in packed) == sum(w.numel() for w in layers) // 2
    assert len(trained) == 2 * len(layers) and all(p.is_floating_point() for p in trained)


def test_gradients_are_the_same_after_an_evaluation(world: Path) -> None:
    """On some CPUs bitsandbytes rearranges the weights in a forward without gradients, and then has none."""
    student = load_student(str(world / "wide"), LORA, seed=0, checkpoint=None, device="cpu")
    batch = Batch.of([Cache.open(world / "cache").sequences(0)])
    weights = [p for p in as_module(student).parameters() if p.requires_grad]
    before = torch.autograd.grad(student(batch).square().mean(), weights)
    with torch.no_grad():
        student(batch)
    after = torch.autograd.grad(student(batch).square().mean(), weights)
    assert any(bool(g.any()) for g in before)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_first_loss_is_that_of_the_quantised_model_and_it_resumes_to_the_bit(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_distill(settings(world, tmp_path / "whole"))
    cache = Cache.open(world / "cache")
    window = Plan(num_sequences=len(cache), batch_size=2, seed=0, total_steps=5, window_steps=3).window(0)
    batch = window.batch([cache.sequences(int(i)) for i in window.positions], 0)
    quantised = load_model(world / "wide", options=LoadSettings(quantization=FOUR_BITS))
    _, target = cache.targets([s.position for s in batch if s.position is not None])
    with torch.no_grad():
        logits_NV = quantised(Batch.of(batch))
    expected = float(forward_kl(logits_NV[:, : target.vocab_size], target).mean())
    assert rows(tmp_path / "whole")[1]["loss"] == pytest.approx(expected, rel=1e-5)
    with monkeypatch.context() as patch:
        signal_at(patch, 3)
        with pytest.raises(Preempted):
            run_distill(settings(world, tmp_path / "stopped"))
    run_distill(settings(world, tmp_path / "stopped"))
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / n / "model" / "adapter_model.safetensors") for n in ("stopped", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert load_model(tmp_path / "whole").fingerprint()  # merged into the base model as it is on disk


def test_what_does_not_combine_is_refused(world: Path) -> None:
    sharded = settings(world, Path("run"), parallel=ParallelSettings(strategy="fsdp"))
    with pytest.raises(UsageError, match=r"fsdp does not go with lora\.quantization"):
        check_combination(sharded)
    with pytest.raises(UsageError, match=r"lora\.rank = 0 trains all weights"):
        check_combination(replace(sharded, lora=replace(LORA, rank=0)))
