"""One rule decides in which number format a model runs inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from thack.config import ArchitectureSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.models.batch import Batch
from thack.models.load import load_model, new_decoder, new_model
from thack.models.precision import FLOAT32, Precision, inference_precision
from thack.models.protocol import LanguageModel

TOKENIZER = Tokenizer.train(["def read(path): read the file at path"] * 3, 264)
BFLOAT16 = Precision(dtype=torch.bfloat16)


def model(**changes: object) -> LanguageModel:
    settings = ArchitectureSettings(hidden_size=32, num_layers=2, num_heads=2, max_positions=48, **changes)  # type: ignore[arg-type]
    return new_model(settings, TOKENIZER, 0)


def batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch.of([
        TokenSequence(
            example=i,
            prompt_id=str(i),
            prompt_ids=rng.integers(2, 264, 3 + i, dtype=np.int32),
            response_ids=rng.integers(2, 264, 5, dtype=np.int32),
        )
        for i in range(4)
    ])  # fmt: skip


def test_the_setting_decides_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thack.runtime.device.fast_bf16_flag", lambda: None)
    assert str(inference_precision(model(), "auto")) == "float32 (bfloat16 is emulated on this CPU)"
    found = inference_precision(model(), "bfloat16")
    assert found.name == "bfloat16" and found.dtype == torch.bfloat16 and "asked for" in found.reason
    assert str(BFLOAT16) == "bfloat16"


def test_weights_that_were_loaded_narrower_are_named(tmp_path: Path) -> None:
    model().save(tmp_path)
    narrow = load_model(tmp_path, dtype=torch.bfloat16)
    assert str(inference_precision(narrow, "float32")) == "float32 (asked for, on weights in bfloat16)"


def test_products_are_in_the_format_and_float32_casts_nothing() -> None:
    student = model()
    with torch.no_grad():
        plain = student(batch())
        with FLOAT32.autocast(student):
            assert torch.equal(student(batch()), plain)
        with BFLOAT16.autocast(student):
            cast = student(batch())
    assert cast.dtype == torch.bfloat16 and not torch.equal(cast.float(), plain)
    torch.testing.assert_close(cast.float(), plain, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("tie_head", [False, True])
@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_rounded_weights_give_the_bits_of_autocast(family: str, tie_head: bool) -> None:
    """Scoring and writing alike; a head that is the embedding too stays in float32."""
    student = model(family=family, tie_head=tie_head)
    prompts = [np.array([5, 6, 7], np.int32), np.array([8, 9], np.int32)]

    def numbers() -> list[torch.Tensor]:
        with torch.no_grad(), BFLOAT16.autocast(student):
            state = student.start(prompts, 3)
            first = state.logits()
            state.append(torch.tensor([4, 5]))
            return [student(batch()), first, state.logits()]

    before = numbers()
    BFLOAT16.round_weights(student)
    assert all(torch.equal(a, b) for a, b in zip(before, numbers(), strict=True))
    assert {p.dtype for p in student.parameters()} == {torch.float32, torch.bfloat16}
    if family == "decoder":
        assert student.head().weight.dtype == (torch.float32 if tie_head else torch.bfloat16)


def test_rounding_to_float32_is_nothing() -> None:
    student = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), TOKENIZER, 0)
    before = student.fingerprint(full=True)
    FLOAT32.round_weights(student)
    assert student.fingerprint(full=True) == before
