"""What ends a response: EOS, and whatever else the model's own files say, such as a chat model's end of turn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from thack.config import ArchitectureSettings, SamplingSettings
from thack.data.tokenizer import Tokenizer
from thack.generation.sampler import GenerationRequest, generate
from thack.models.load import load_model, new_decoder

LENGTH = 12


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    trained = Tokenizer.train(["def read(path): reads the file"] * 3, 264)
    new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), trained, seed=1).save(tmp_path / "model")
    return tmp_path / "model"


def written(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """A prompt, and the response to it."""
    model = load_model(directory)
    prompt = model.tokenizer.encode("def read(path):")
    request = GenerationRequest(sampling=SamplingSettings(greedy=True), max_new_tokens=LENGTH, seed=0)
    return prompt, generate(model, [prompt], request, examples=[0])[0]


def name_as_end(directory: Path, token: int, *, special: bool, file: str = "generation_config.json") -> None:
    """What a chat model's directory says of its end of turn."""
    tokenizer = Tokenizer.load(directory)
    if special:
        tokenizer._backend.add_special_tokens([tokenizer._backend.id_to_token(token)])
        tokenizer._backend.save(str(directory / "tokenizer.json"))
    path = directory / file
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"eos_token_id": [tokenizer.eos_id, token]}))


def test_a_response_ends_where_transformers_ends_it(directory: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from thack.models.hf.load import wrap

    _, before = written(directory)
    end = int(before[3])
    assert len(before) == LENGTH
    name_as_end(directory, end, special=True)
    prompt, found = written(directory)
    assert found.tolist() == before[: before.tolist().index(end) + 1].tolist()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False)
    assert found.tolist() == expected[0, len(prompt) :].tolist()
    live = wrap(theirs, transformers.AutoTokenizer.from_pretrained(directory))
    assert live.tokenizer.ends == load_model(directory).tokenizer.ends
    load_model(directory).save(tmp_path / "again")
    assert load_model(tmp_path / "again").tokenizer.ends.ids == {Tokenizer.load(directory).eos_id, end}


def test_an_end_that_generation_config_names_need_not_be_special(directory: Path) -> None:
    transformers = pytest.importorskip("transformers")
    _, before = written(directory)
    end = int(before[3])
    name_as_end(directory, end, special=False)
    prompt, found = written(directory)
    assert found.tolist() == before[: before.tolist().index(end) + 1].tolist()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False)
    assert found.tolist() == expected[0, len(prompt) :].tolist()


def test_a_word_that_config_json_names_by_default_ends_nothing(directory: Path) -> None:
    _, before = written(directory)
    (directory / "generation_config.json").unlink()
    name_as_end(directory, int(before[3]), special=False, file="config.json")
    assert np.array_equal(written(directory)[1], before)
