"""A directory, or settings, to a `LanguageModel`: native where the architecture is known, else transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from thack.config import ArchitectureSettings, LoadSettings, LoraSettings, MergeSettings
from thack.data.model_files import check_directory, read_object
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError, UsageError
from thack.files import atomic_directory
from thack.models import checkpoint
from thack.models.directory import base_of, holds_adapter, read_config
from thack.models.hub import locate
from thack.models.native.architecture import Architecture, UnsupportedArchitecture
from thack.models.native.llama import Llama
from thack.models.protocol import LanguageModel, LoadFacts
from thack.runtime.progress import SILENT, Progress


def share_ids(models: Sequence[LanguageModel]) -> None:
    """Let those of the models that share a tokenizer read the ids for which each of them has an embedding."""
    fingerprints = [model.tokenizer.fingerprint() for model in models]
    sizes = [model.tokenizer.size for model in models]
    for model, own in zip(models, fingerprints, strict=True):
        shared = min(size for size, other in zip(sizes, fingerprints, strict=True) if other == own)
        model.tokenizer = model.tokenizer.for_rows(shared)


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
        from thack.models.hf import load as hf
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
    progress: Progress = SILENT,
) -> LanguageModel:
    """Load a model in evaluation mode from a directory, or by its name on the hub (`org/name@revision`).

    Args:
        name: The directory, or the name.
        role: Names the model in errors and notes: oracle, teacher, student.
        device: Where its weights go, unless `options` place them.
        dtype: Their number format, unless `options` name one.
        options: `load.*` of the settings.
        progress: Shows that it loads, and is told what loading did that the directory does not say.

    Raises:
        ModelError: there is no such model, it is incomplete, or thack cannot use it as it is.
        UsageError: options that contradict each other.
    """
    options = options or LoadSettings()
    try:
        source = locate(name)
        facts = LoadFacts(
            origin=source.origin,
            full_hash=options.full_hash,
            generation_config=read_object(source.directory, "generation_config.json") or {},
        )
        with progress.task(f"loading {role}", None):
            model = _load(source.directory, device, _dtype(options, dtype), options, facts)
    except ModelError as error:
        raise ModelError(f"{role}: {error.message}", details=error.details, hint=error.hint) from error
    for note in model.facts.notes:
        progress.note(f"{role}: {note}")
    return model


def load_head(
    name: Path | str,
    *,
    device: torch.device | str = "cpu",
    options: LoadSettings | None = None,
    progress: Progress = SILENT,
) -> LanguageModel:
    """The final norm and head of a teacher, in a model of its first layer alone: for a teacher too large to load.

    Args:
        name: Its directory, or its name on the hub.
        device: Where its weights go.
        options: `load.*` of the settings.
        progress: As of `load_model`.

    Raises:
        ModelError: as of `load_model`; or transformers is not installed.
    """
    options = options or LoadSettings()
    try:
        from thack.models.hf import load as hf

        source = locate(name)
        facts = LoadFacts(
            origin=source.origin, generation_config=read_object(source.directory, "generation_config.json") or {}
        )
        with progress.task("loading the teacher's head", None):
            dtype = _dtype(options, torch.float32)
            return hf.load_head(source.directory, device=device, dtype=dtype, options=options, facts=facts)
    except ImportError as error:
        raise ModelError("head_only needs transformers", hint="pip install 'thack[hf]'") from error
    except ModelError as error:
        raise ModelError(f"teacher: {error.message}", details=error.details, hint=error.hint) from error


def load_student(
    name: str,
    lora: LoraSettings,
    *,
    seed: int,
    checkpoint: Path | None,
    device: torch.device | str,
    progress: Progress = SILENT,
) -> LanguageModel:
    """The model to train: all of it, or, with `lora.rank`, an adapter on the frozen model `name`.

    Args:
        name: The directory or name that the run starts from.
        lora: Of a new adapter.
        seed: Of a new adapter's random factors.
        checkpoint: Of the run, if it is resumed: a whole model, or an adapter.
        device: Where its weights go.
        progress: As of `load_model`.

    Raises:
        ModelError: as of `load_model`; or peft is not installed, or refuses the settings.
        UsageError: the model holds an adapter of its own.
    """
    if not lora.rank:
        return load_model(checkpoint or name, role="student", device=device, progress=progress)
    source = locate(name)
    facts = LoadFacts(origin=source.origin)
    try:
        from thack.models.hf import load as hf

        with progress.task("loading student", None):
            return hf.load_with_adapter(source.directory, lora, seed=seed, saved=checkpoint, device=device, facts=facts)
    except ImportError as error:
        raise ModelError("an adapter needs transformers and peft", hint="pip install 'thack[lora]'") from error
    except ModelError as error:
        raise ModelError(f"student: {error.message}", details=error.details, hint=error.hint) from error


def without_adapter(student: LanguageModel) -> LanguageModel:
    """The frozen model below the adapter that `student` trains, without a second copy of its weights."""
    from thack.models.hf.model import HuggingFaceModel
    from thack.models.hf.without_adapter import WithoutAdapter

    assert isinstance(student, HuggingFaceModel), "an adapter is peft's, on a model of transformers"
    return WithoutAdapter(student)


def _load(
    directory: Path, device: torch.device | str, dtype: torch.dtype, options: LoadSettings, facts: LoadFacts
) -> LanguageModel:
    check_directory(directory)
    adapter = holds_adapter(directory)
    config = read_config(base_of(directory).directory if adapter else directory)
    if options.backend == "transformers" or options.device_map or options.quantization or adapter:
        if options.backend == "native":
            raise UsageError(
                "load.backend = native does not go with load.device_map, load.quantization or an adapter",
                hint="these are transformers' and peft's own: leave load.backend at auto",
            )
        return _through_transformers(directory, ModelError("transformers was asked for"), device, dtype, options, facts)
    try:
        architecture = Architecture.read(config)
        try:
            return load_native(directory, architecture, device=device, dtype=dtype, facts=facts)
        except checkpoint.OtherNames as reason:
            # A model type of its own (EXAONE) may compute as a Llama and name its weights in its own way.
            if config.get("model_type", architecture.family) == architecture.family:
                raise
            raise UnsupportedArchitecture(reason.message, hint=reason.hint) from reason
    except UnsupportedArchitecture as reason:
        if options.backend == "native":
            raise
        return _through_transformers(directory, reason, device, dtype, options, facts)


def merge(settings: MergeSettings, progress: Progress = SILENT) -> LanguageModel:
    """Write an adapter and its base model as one model, in the number format of the base's files; returns it.

    Raises:
        UsageError: `model` holds no adapter, or `out` exists.
        ModelError: as of `load_model`.
    """
    if not holds_adapter(locate(settings.model).directory):
        raise UsageError(
            f"{settings.model} holds no adapter: there is nothing to merge", hint="it can be used as it is"
        )
    model = load_model(settings.model, options=LoadSettings(full_hash=settings.full_hash), progress=progress)
    with atomic_directory(settings.out) as temporary:
        model.save(temporary, dtype=model.facts.dtype)
    return model


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
    from thack.models.hf import load as hf

    return hf.wrap(model, tokenizer, role=role)


def tokenizer_of(tokenizer: Any) -> Tokenizer:
    """The tokenizer itself, transformers' fast one, or that of a directory, as ours."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, str | Path):
        return Tokenizer.load(locate(tokenizer).directory)
    if tokenizer is None:
        raise UsageError("no tokenizer is known here", hint="give it: tokenizer=…")
    from thack.models.hf import load as hf

    return hf.tokenizer_of(None, tokenizer)


def _dtype(options: LoadSettings, default: torch.dtype) -> torch.dtype:
    if not options.dtype:
        return default
    found = getattr(torch, options.dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"load.dtype = {options.dtype!r} is not a number format", hint="float32, bfloat16 or float16")
    return found


def load_native(
    directory: Path,
    architecture: Architecture,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    facts: LoadFacts | None = None,
) -> Llama:
    """Read a directory of the Llama family into the native decoder."""
    tokenizer = Tokenizer.load(directory)
    weights = checkpoint.read_weights(directory)
    facts = replace(facts or LoadFacts(), dtype=checkpoint.weights_dtype(directory))
    tied, architecture = architecture.tie_head, checkpoint.with_own_head(architecture, weights)
    if tied != architecture.tie_head:
        facts = replace(facts, notes=(*facts.notes, checkpoint.OWN_HEAD))
    with torch.device("meta"):
        model = Llama(architecture, tokenizer, facts)
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
    directory: Path,
    reason: ModelError,
    device: torch.device | str,
    dtype: torch.dtype,
    options: LoadSettings,
    facts: LoadFacts,
) -> LanguageModel:
    try:
        from thack.models.hf import load as hf
    except ImportError as error:
        raise ModelError(reason.message, hint="transformers may load it: pip install 'thack[hf]'") from error
    base = base_of(directory).directory if holds_adapter(directory) else directory
    facts = replace(facts, dtype=checkpoint.weights_dtype(base))
    return hf.load(directory, device=device, dtype=dtype, options=options, facts=facts)
