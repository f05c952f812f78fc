"""Numbers that no model has are refused by name before memory is taken, in whatever family's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thack.errors import ModelError
from thack.models import checkpoint
from thack.models.directory import read_config
from thack.models.native.architecture import Architecture

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000 is not a whole number from 0 to 4,096"),
        ({"hidden_size": -16}, "hidden_size = -16 is not"),
        ({"hidden_size": 1e308}, r"hidden_size = 1e\+308 is not"),
        ({"hidden_size": 16.5}, "hidden_size = 16.5 is not"),
        ({"vocab_size": float("nan")}, "vocab_size = nan is not"),
        ({"vocab_size": 10**400}, "vocab_size = 1000.* is not"),
        ({"text_config": {"n_layer": 10**9}}, "config.json: text_config: n_layer"),
    ],
)
def test_of_config_json(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changed))
    with pytest.raises(ModelError, match=problem):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_attention_heads": 0},
        {"hidden_size": "wide"},
        {"rope_scaling": {"rope_type": "linear"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": "much"}},
        {"rope_theta": [1]},
        {"rope_parameters": 5},
        {"architectures": [5]},
        {"architectures": 5},
        {"model_type": {}, "architectures": None},
    ],
)
def test_other_nonsense_is_a_model_error(changed: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        Architecture.read(CONFIG | changed)


@pytest.mark.parametrize("index", [[], {"weight_map": 5}, {"weight_map": {"a": 5}}, {"weight_map": {"a": "../x"}}])
def test_an_index_names_plain_files(tmp_path: Path, index: object) -> None:
    (tmp_path / checkpoint.INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=checkpoint.INDEX):
        checkpoint.read_weights(tmp_path)
