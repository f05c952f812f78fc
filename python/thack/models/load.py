"""A directory, or settings, to a `LanguageModel`: native where the architecture is known, else transformers."""

from __future__ import annotations

from pathlib import Path

import torch

from thack.config.settings import ArchitectureSettings
from thack.errors import ModelError
from thack.models import checkpoint
from thack.models.architecture import Architecture, UnsupportedArchitecture
from thack.models.llama import Llama
from thack.models.protocol import LanguageModel
from thack.models.tokenizer import Tokenizer


def new_decoder(settings: ArchitectureSettings, tokenizer: Tokenizer, seed: int) -> Llama:
    """An untrained native decoder, float32 on the CPU; the same for the same seed anywhere."""
    model = Llama(Architecture.new(settings, tokenizer.size), tokenizer)
    model.initialise(seed)
    return model


def load_model(
    directory: Path | str,
    *,
    role: str = "model",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """Load a model directory in evaluation mode; `role` (oracle, teacher, student) names it in errors."""
    directory = Path(directory).expanduser()
    try:
        config = checkpoint.read_config(directory)
        try:
            architecture = Architecture.read(config)
        except UnsupportedArchitecture as reason:
            return _through_transformers(directory, reason, device, dtype)
        return load_native(directory, architecture, device=device, dtype=dtype)
    except ModelError as error:
        raise ModelError(f"{role}: {error.message}", details=error.details, hint=error.hint) from error


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
    directory: Path, reason: ModelError, device: torch.device | str, dtype: torch.dtype
) -> LanguageModel:
    try:
        from thack.models import hf
    except ImportError as error:
        raise ModelError(reason.message, hint="transformers may load it: pip install 'thack[hf]'") from error
    return hf.load(directory, device=device, dtype=dtype)
