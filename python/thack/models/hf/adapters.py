"""Adapters of peft: a directory that holds one beside its base model, and live models that hold one.

An adapter is merged into the weights, so that a model is one set of weights for scoring, training and saving.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from thack.errors import ModelError

CONFIG = "adapter_config.json"


def holds_adapter(directory: Path) -> bool:
    """Whether the directory holds an adapter."""
    return (directory / CONFIG).is_file()


@contextmanager
def base_only(directory: Path) -> Iterator[Path]:
    """A directory with everything but the adapter: transformers would apply it without merging it."""
    with TemporaryDirectory() as place:
        for path in directory.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(place) / path.name).symlink_to(path.resolve())
        yield Path(place)


def merge_from(model: Any, directory: Path) -> Any:
    """`model` with the weights of the adapter in `directory` added to its own.

    Raises:
        ModelError: peft is not installed, the weights are pickled, or this kind of adapter cannot be merged.
    """
    try:
        from peft import PeftModel  # an extra of its own
    except ImportError as error:
        raise ModelError(
            f"{directory} holds an adapter beside its base model, and peft is not installed",
            hint=f"pip install 'thack[lora]', or remove {CONFIG} to use the base model alone",
        ) from error
    if not (directory / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{directory} holds {CONFIG}, but no adapter_model.safetensors",
            hint=f"save the adapter again with save_pretrained, or remove {CONFIG} to use the base model alone",
        )
    try:
        found = merged(PeftModel.from_pretrained(model, str(directory)))
        for parameter in found.parameters():
            parameter.requires_grad_(parameter.is_floating_point())  # peft has frozen the base model
        return found
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise ModelError(
            f"peft cannot load the adapter in {directory}", details=str(error).strip().splitlines()[:3]
        ) from error


def merged(model: Any) -> Any:
    """The base model of a `PeftModel`, with the adapter's weights added; `model` itself is used up."""
    if not callable(getattr(model, "merge_and_unload", None)):
        kinds = sorted({str(config.peft_type) for config in model.peft_config.values()})
        raise ModelError(
            f"an adapter of type {', '.join(kinds)} cannot be merged into its base model",
            hint="thack needs an adapter that changes weights, such as LoRA",
        )
    return model.merge_and_unload()


def is_peft(model: Any) -> bool:
    """Whether `model` is peft's wrapper of a transformers model."""
    return hasattr(model, "get_base_model") and hasattr(model, "peft_config")


def merged_copy(model: Any) -> Any:
    """The merged base model of a `PeftModel` that stays as it is."""
    return merged(copy.deepcopy(model))
