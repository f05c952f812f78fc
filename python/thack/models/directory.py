"""A model directory as files: config.json, and what to do where the weights are not safetensors. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thack.errors import ModelError
from thack.models.hub import gguf_advice


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory."""
    path = directory / "config.json"
    if not directory.is_dir():
        raise ModelError(f"no such model directory: {directory}", hint="give a directory that holds config.json")
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _no_config(directory) from None
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: holds {type(config).__name__}, expected an object")
    return config


def _no_config(directory: Path) -> ModelError:
    """What to do with a directory that is no model by itself."""
    adapter = directory / "adapter_config.json"
    if adapter.is_file():
        base = read_object(adapter).get("base_model_name_or_path") or "BASE"
        return ModelError(
            f"{directory} holds an adapter without its base model",
            hint="merge the two and give the result: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("
            f"'{base}'), '{directory}').merge_and_unload().save_pretrained(OUT), with the tokenizer saved beside it",
        )
    if any(directory.glob("*.gguf")):
        return ModelError(f"{directory} holds GGUF weights, and no config.json", hint=advice(directory))
    return ModelError(f"no config.json in {directory}", hint="give a directory as save_pretrained or thack writes it")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file beside the weights; empty where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
