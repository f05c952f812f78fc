"""A model directory as files: config.json, and what to do where the weights are not safetensors. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thack.data.model_files import read_object
from thack.errors import ModelError
from thack.models.hub import Source, gguf_advice, locate

ADAPTER = "adapter_config.json"

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
    if any(directory.glob("*.gguf")):
        return ModelError(f"{directory} holds GGUF weights, and no config.json", hint=advice(directory))
    return ModelError(f"no config.json in {directory}", hint="give a directory as save_pretrained or thack writes it")


def holds_adapter(directory: Path) -> bool:
    """Whether the directory holds an adapter of peft, beside its base model or alone."""
    return (directory / ADAPTER).is_file()


def base_of(directory: Path) -> Source:
    """The base model of an adapter: the directory itself where it holds both, else what adapter_config.json names.

    A directory is looked for from here and from the adapter's own; a name on the hub in the snapshots of this machine.

    Raises:
        ModelError: it names none, it is not on this machine, or it holds an adapter of its own.
    """
    if (directory / "config.json").is_file():
        return Source(directory=directory, origin=str(directory))
    config = read_object(directory, ADAPTER) or {}
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise ModelError(f"{directory / ADAPTER} names no base model", hint="name it: base_model_name_or_path")
    place = next((path for path in (Path(name), directory / name) if path.is_dir()), None)
    label = f"{name}@{revision}" if place is None and isinstance(revision, str) else name
    try:
        found = locate(label if place is None else place, fetch=False)
    except ModelError as error:
        raise ModelError(
            f"{directory} holds an adapter, and its base model {name} is not on this machine",
            details=(error.message,),
            hint=f"put it there (of the hub: hf download {name}), or correct base_model_name_or_path in {ADAPTER}",
        ) from error
    if holds_adapter(found.directory):
        raise ModelError(
            f"the base model of {directory} holds an adapter of its own: {found.directory}",
            hint="merge that one first (thack merge), and name the result as the base",
        )
    return found


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
