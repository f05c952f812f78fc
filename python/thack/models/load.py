"""A directory, or settings, to a `LanguageModel`: native where the architecture is known, else transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from thack.config import ArchitectureSettings, LoadSettings
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError, UsageError
from thack.models import checkpoint
from thack.models.hub import locate
from thack.models.native.architecture import Architecture, UnsupportedArchitecture
from thack.models.native.llama import Llama
from thack.models.protocol import LanguageModel


def new_decoder(settings: ArchitectureSettings, tokenizer: Tokenizer, seed: int) -> Llama:
    """An untrained native decoder, float32 on the CPU; the same for the same seed anywhere."""
    model = Llama(Architecture.new(settings, tokenizer.size), tokenizer)
    model.initialise(seed)
    return model


def new_model(settings: ArchitectureSettings, tokenizer: Tokenizer, seed: int) -> LanguageModel:
    """An untrained model of either family, float32 on the CPU."""
    if settings.family == "decoder":
        return new_decoder(settings, tokenizer, seed)
    try:
        from thack.models.hf import model as hf
    except ImportError as error:
        hint = "an encoder-decoder is transformers' T5: pip install 'thack[hf]'"
        raise ModelError("family = encoder-decoder needs transformers", hint=hint) from error
    return hf.new_t5(settings, tokenizer, seed)


def load_model(
    name: Path | str,
    *,
    role: str = "model",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    options: LoadSettings | None = None,
) -> LanguageModel:
    """Load a model in evaluation mode from a directory, or by its name on the hub (`org/name@revision`).

    `role` (oracle, teacher, student) names it in errors. A model of the hub remembers its commit: `origin`.
    """
    options = options or LoadSettings()
    try:
        source = locate(name)
        model = _load(source.directory, device, _dtype(options, dtype), options)
    except ModelError as error:
        raise ModelError(f"{role}: {error.message}", details=error.details, hint=error.hint) from error
    model.origin = source.origin  # type: ignore[attr-defined]
    model.full_hash = options.full_hash  # type: ignore[attr-defined]
    return model


def origin_of(model: LanguageModel) -> str:
    """What a model was loaded from: a directory, or `org/name@commit`; empty for one made in memory."""
    return str(getattr(model, "origin", ""))


def _load(directory: Path, device: torch.device | str, dtype: torch.dtype, options: LoadSettings) -> LanguageModel:
    config = checkpoint.read_config(directory)
    if options.backend == "transformers" or options.device_map or options.quantization:
        if options.backend == "native":
            raise UsageError(
                "load.backend = native does not go with load.device_map or load.quantization",
                hint="both are transformers' own: leave load.backend at auto",
            )
        return _through_transformers(directory, ModelError("transformers was asked for"), device, dtype, options)
    try:
        architecture = Architecture.read(config)
    except UnsupportedArchitecture as reason:
        if options.backend == "native":
            raise
        return _through_transformers(directory, reason, device, dtype, options)
    return load_native(directory, architecture, device=device, dtype=dtype)


def as_language_model(model: Any, tokenizer: Any = None, *, role: str = "model") -> LanguageModel:
    """Anything that plays a role: one of ours as it is, a name or directory, or a live transformers model.

    A transformers model needs its tokenizer, unless it remembers where it came from. It is wrapped, not copied:
    nothing in it is changed.
    """
    if isinstance(model, LanguageModel):
        return model
    if isinstance(model, str | Path):
        return load_model(model, role=role)
    if not callable(getattr(model, "get_output_embeddings", None)):
        raise UsageError(
            f"a {type(model).__name__} cannot be the {role}",
            hint="give a directory, a transformers model, or what thack.models.load.load_model returns",
        )
    from thack.models.hf import model as hf

    return hf.wrap(model, tokenizer, role=role)


def tokenizer_of(tokenizer: Any) -> Tokenizer:
    """The tokenizer itself, transformers' fast one, or that of a directory, as ours."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, str | Path):
        return Tokenizer.load(locate(tokenizer).directory)
    if tokenizer is None:
        raise UsageError("no tokenizer is known here", hint="give it: tokenizer=…")
    from thack.models.hf import model as hf

    return hf.tokenizer_of(None, tokenizer)


def _dtype(options: LoadSettings, default: torch.dtype) -> torch.dtype:
    if not options.dtype:
        return default
    found = getattr(torch, options.dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"load.dtype = {options.dtype!r} is no number format", hint="float32, bfloat16 or float16")
    return found


def load_native(
    directory: Path, architecture: Architecture, *, device: torch.device | str, dtype: torch.dtype
) -> Llama:
    """Read a directory of the Llama family into the native decoder."""
    tokenizer = Tokenizer.load(directory)
    with torch.device("meta"):
        model = Llama(architecture, tokenizer)
    weights = checkpoint.read_weights(directory)
    state = checkpoint.from_transformers(weights, model.state_dict(), architecture)
    state = {name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}
    if architecture.tie_head:
        state["lm_head.weight"] = state["embedding.weight"]
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if architecture.tie_head:
        model.lm_head.weight = model.embedding.weight
    return model.eval()


def _through_transformers(
    directory: Path, reason: ModelError, device: torch.device | str, dtype: torch.dtype, options: LoadSettings
) -> LanguageModel:
    try:
        from thack.models.hf import model as hf
    except ImportError as error:
        raise ModelError(reason.message, hint="transformers may load it: pip install 'thack[hf]'") from error
    return hf.load(directory, device=device, dtype=dtype, options=options)
