"""A model directory as files: config.json, and what to do where the weights are not safetensors. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thack.data.model_files import read_object
from thack.errors import ModelError
from thack.models.hub import gguf_advice

_MOST = {  # of what a config.json counts, in any family's words; far beyond every model there is
    1 << 12: "num_hidden_layers num_layers num_decoder_layers n_layer n_layers encoder_layers decoder_layers",
    1 << 16: "num_attention_heads num_key_value_heads num_heads n_head n_heads head_dim d_kv "
    "num_experts num_local_experts n_routed_experts moe_num_experts",
    1 << 20: "hidden_size d_model n_embd",
    1 << 24: "intermediate_size d_ff n_inner ffn_dim moe_intermediate_size",
    1 << 26: "vocab_size",
    1 << 40: "max_position_embeddings n_positions",
}


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()


def check_sizes(config: Mapping[str, Any], what: str = "config.json") -> None:
    """Refuse numbers that no model has, before memory is taken for them.

    Raises:
        ModelError: names the key, the value and the bound.
    """
    for most, keys in _MOST.items():
        for key in keys.split():
            value = config.get(key)
            if isinstance(value, int | float) and not (_is_whole(value) and 0 <= value <= most):
                raise ModelError(f"{what}: {key} = {value!r:.40} is not a whole number from 0 to {most:,}")
    for key, value in config.items():
        if key.endswith("_config") and isinstance(value, Mapping):
            check_sizes(value, f"{what}: {key}")


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory."""
    path = directory / "config.json"
    if not directory.is_dir():
        raise ModelError(f"no such model directory: {directory}", hint="give a directory that holds config.json")
    config = read_object(directory, "config.json")
    if config is None:
        raise _no_config(directory)
    check_sizes(config, str(path))
    return dict(config)


def _no_config(directory: Path) -> ModelError:
    """What to do with a directory that is no model by itself."""
    adapter = directory / "adapter_config.json"
    if adapter.is_file():
        base = (read_object(directory, adapter.name) or {}).get("base_model_name_or_path") or "BASE"
        return ModelError(
            f"{directory} holds an adapter without its base model",
            hint="merge the two and give the result: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("
            f"'{base}'), '{directory}').merge_and_unload().save_pretrained(OUT), with the tokenizer saved beside it",
        )
    if any(directory.glob("*.gguf")):
        return ModelError(f"{directory} holds GGUF weights, and no config.json", hint=advice(directory))
    return ModelError(f"no config.json in {directory}", hint="give a directory as save_pretrained or thack writes it")


def require_safetensors(directory: Path) -> None:
    """Raise ModelError with what to do about weights of another kind."""
    if not any(directory.glob("*.safetensors")):
        raise ModelError(f"no safetensors weights in {directory}", hint=advice(directory))


def advice(directory: Path) -> str:
    """How weights of another kind become safetensors."""
    if any(directory.glob("*.safetensors")):
        return "the directory is incomplete: copy the missing file, too"
    if found := sorted(directory.glob("*.gguf")):
        return gguf_advice(found[0])
    if any(directory.glob("*.bin")):
        return (
            "pickled weights are not loaded, since they can run code; if you trust them, convert them once: "
            f"AutoModelForCausalLM.from_pretrained('{directory}').save_pretrained(OUT), with the tokenizer saved beside"
        )
    return "the directory holds no weights"
