"""Adapters of peft: on disk, beside a base model or alone; live; and new ones, which alone are trained and saved.

An adapter that is not trained is merged into the weights, so that a model is one set of weights for scoring and saving.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from thack.config import LoraSettings
from thack.data.model_files import read_object
from thack.errors import ModelError, UsageError
from thack.models.directory import ADAPTER
from thack.models.hub import Source

WEIGHTS = "adapter_model.safetensors"


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
        ModelError: peft is not installed, the weights are pickled or incomplete, or this kind of adapter cannot be
            merged.
    """
    found = merged(_read(model, directory, trains=False))
    for parameter in found.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # peft has frozen the base model
    return found


def attach(model: Any, settings: LoraSettings, *, base: Source, seed: int, saved: Path | None) -> Any:
    """peft's wrapper of `model`, frozen, with an adapter that trains: the one in `saved`, or a new one, which is zero.

    Args:
        model: of transformers; its layers are replaced in place.
        settings: of a new adapter.
        base: where `model` came from, which adapter_config.json is to name.
        seed: of a new adapter's random factors, the same for the same seed.
        saved: a checkpoint with an adapter, or None.

    Raises:
        ModelError: peft is not installed, or refuses the settings.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = _new(model, settings) if saved is None else _read(model, saved, trains=True)
    _check_tied_head(found)
    config = found.peft_config["default"]
    name, _, commit = base.origin.partition("@")
    is_place = Path(base.origin).expanduser().is_dir()
    if isinstance(config.target_modules, set):  # in a file, always in one order
        config.target_modules = sorted(config.target_modules)
    config.base_model_name_or_path = str(base.directory.resolve()) if is_place else name
    config.revision = None if is_place else commit
    return found


def _new(model: Any, settings: LoraSettings) -> Any:
    _require_peft("lora.rank trains an adapter", "or leave out `lora.rank` to train all weights")
    from peft import LoraConfig, get_peft_model

    modules = settings.target_modules
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules[0] if modules == ("all-linear",) else list(modules),
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    try:
        with _without_remarks():
            return get_peft_model(model, config, autocast_adapter_dtype=False)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"peft cannot put an adapter on lora.target_modules = {list(modules)}",
            details=str(error).strip().splitlines()[:3],
            hint='name layers of the model, such as ["q_proj", "v_proj"], or ["all-linear"]',
        ) from error


def _read(model: Any, directory: Path, *, trains: bool) -> Any:
    """peft's wrapper of `model` with the adapter in `directory`."""
    _require_peft(f"{directory} holds an adapter", f"or remove {ADAPTER} to use the base model alone")
    from peft import PeftModel

    if not (directory / WEIGHTS).is_file():
        raise ModelError(
            f"{directory} holds {ADAPTER}, but no {WEIGHTS}",
            hint=f"save the adapter again with save_pretrained, or remove {ADAPTER} to use the base model alone",
        )
    read_object(directory, ADAPTER)  # refuses what is no object, or out of bounds
    try:
        with _without_remarks():  # peft fills what is missing with its start values and a warning
            warnings.filterwarnings("error", message=".*missing adapter keys")
            # Without the cast, what was saved in 16 bits is read in 16 bits.
            return PeftModel.from_pretrained(
                model, str(directory), is_trainable=trains, autocast_adapter_dtype=not trains
            )
    except Exception as error:  # whatever peft makes of a damaged file
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"peft cannot load the adapter in {directory}", details=str(error).strip().splitlines()[:3]
        ) from error


@contextmanager
def _without_remarks() -> Iterator[None]:
    """No warnings about names of transformers that peft still uses, nor about what `_check_tied_head` refuses.

    Nor that bitsandbytes, which peft imports, would like to fetch a kernel from the hub.
    """
    told, level = logging.getLogger("bitsandbytes"), logging.getLogger("bitsandbytes").level
    told.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ensure_weight_tying")
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            yield
    finally:
        told.setLevel(level)


def _require_peft(why: str, otherwise: str) -> None:
    try:
        with _without_remarks():
            import peft  # noqa: F401 - an extra of its own
    except ImportError as error:
        raise ModelError(f"{why}, and peft is not installed", hint=f"pip install 'thack[lora]', {otherwise}") from error


def _check_tied_head(model: Any) -> None:
    """Merged into one of two layers that share their weights, an adapter would change both, or part them."""
    base = model.get_base_model()
    ends = (base.get_output_embeddings(), base.get_input_embeddings())
    tied = getattr(base.config.get_text_config(decoder=True), "tie_word_embeddings", False)
    if tied and any(hasattr(layer, "base_layer") for layer in ends):
        raise UsageError(
            "lora.target_modules names the head or the embedding, and this model ties the two",
            hint='name other layers, or use ["all-linear"], which leaves both as they are',
        )


def save(model: Any, directory: Path) -> None:
    """Write the adapter alone, as peft does: adapter_config.json and adapter_model.safetensors."""
    model.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # an empty form; a run writes a card of its own


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
