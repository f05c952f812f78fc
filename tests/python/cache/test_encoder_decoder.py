"""An encoder-decoder teacher goes through the cache as a decoder does: row t predicts response token t."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
import torch

import thack
from thack.cache import Cache, verify
from thack.config import CacheSettings, DataSettings
from thack.data.tokenizer import Tokenizer
from thack.models.batch import Batch
from thack.targets.types import DenseTarget, TopKTarget

transformers = pytest.importorskip("transformers")

PAIRS = [("def add(a, b)", "Add two numbers."), ("def area(r)", "The area of a circle."), ("def x()", "Nothing.")]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 of random weights, as transformers saves it."""
    directory = tmp_path_factory.mktemp("models") / "t5"
    tokenizer = Tokenizer.train([text for pair in PAIRS for text in pair] * 20, 300)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=tokenizer.size + 3,  # a padded vocabulary, as T5's own
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.eos_id,
        decoder_start_token_id=tokenizer.pad_id,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(directory)
    tokenizer.save(directory)
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import json

    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"id": f"p{i}", "prompt": p, "response": r} for i, (p, r) in enumerate(PAIRS * 4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_records_are_what_the_decoder_gives(teacher: Path, data: Path, tmp_path: Path) -> None:
    from thack.models.load import load_model

    model = load_model(teacher, role="teacher")
    assert model.is_encoder_decoder
    dense, top = (
        Cache.open(
            thack.cache_logits(
                CacheSettings(
                    teacher=str(teacher),
                    data=DataSettings(path=str(data)),
                    out=tmp_path / kind,
                    kind=kind,
                    top_k=8,
                    device="cpu",
                )
            )
        )
        for kind in get_args(Literal["dense", "top-k"])
    )
    assert verify(dense.directory, full=True).ok and verify(top.directory, full=True).ok
    order = list(range(len(dense)))[::-1]
    sequences, target = dense.targets(order)
    assert isinstance(target, DenseTarget) and target.vocab_size == model.tokenizer.size
    with torch.inference_mode():
        live = torch.log_softmax(model(Batch.of(sequences))[:, : target.vocab_size], 1)  # without padded ids
    torch.testing.assert_close(target.log_probs_NV, live, atol=1e-4, rtol=1e-4)
    _, sparse = top.targets(order)
    assert isinstance(sparse, TopKTarget) and sparse.log_tail_N is not None
    torch.testing.assert_close(sparse.log_probs_NK, live.gather(1, sparse.ids_NK.long()), atol=0.06, rtol=0)
    np.testing.assert_allclose(sparse.log_probs_NK.exp().sum(1) + sparse.log_tail_N.exp(), 1, atol=0.02)


def test_a_shift_of_one_would_be_seen(teacher: Path, data: Path, tmp_path: Path) -> None:
    """Row t against the model called by hand, one response prefix at a time."""
    model = transformers.T5ForConditionalGeneration.from_pretrained(teacher).eval()
    cache = Cache.open(
        thack.cache_logits(
            CacheSettings(
                teacher=str(teacher), data=DataSettings(path=str(data)), out=tmp_path / "c", kind="dense", device="cpu"
            )
        )
    )
    (s,), target = cache.targets([1])
    assert isinstance(target, DenseTarget) and len(s.response_ids) > 3
    prompt = torch.from_numpy(s.prompt_ids.astype(np.int64))[None]
    for t in range(len(s.response_ids)):
        seen = torch.tensor([[model.config.decoder_start_token_id, *s.response_ids[:t].tolist()]])
        with torch.inference_mode():
            last = model(input_ids=prompt, decoder_input_ids=seen).logits[0, -1]
        torch.testing.assert_close(
            target.log_probs_NV[t], torch.log_softmax(last[: target.vocab_size], 0), atol=1e-4, rtol=1e-4
        )


def test_responses_are_written_and_scored_in_one_pass(teacher: Path, data: Path, tmp_path: Path) -> None:
    settings = CacheSettings(
        teacher=str(teacher),
        data=DataSettings(path=str(data), max_response_tokens=6),
        kind="sampled",
        sampled=4,
        generate=True,
        samples=2,
        device="cpu",
    )
    first, again = (thack.cache_logits(replace(settings, out=tmp_path / name)) for name in ("a", "b"))
    cache = Cache.open(first)
    assert len(cache) == 2 * len(PAIRS) * 4
    assert all(1 <= len(cache.sequences(i).response_ids) <= 6 for i in range(len(cache)))
    for path in (first / "shards").iterdir():
        assert path.read_bytes() == (again / "shards" / path.name).read_bytes()
