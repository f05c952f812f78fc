"""Loading transformers' checkpoints, and wrapping its live models: the way into `HuggingFaceModel`.

Safetensors only, and no code from a checkpoint is run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from thack.config import ArchitectureSettings, LoadSettings, LoraSettings
from thack.data.model_files import check_directory
from thack.data.tokenizer import Tokenizer
from thack.data.tokenizer_files import read_backend, read_facts
from thack.errors import ModelError, UsageError
from thack.files import write_json
from thack.models import checkpoint
from thack.models.directory import base_of, holds_adapter, read_config, require_safetensors
from thack.models.hf import adapters
from thack.models.hf.bars import without_bars, without_report
from thack.models.hf.model import HuggingFaceModel, unwrapped
from thack.models.hub import Source, locate
from thack.models.native.architecture import ties_head
from thack.models.protocol import BaseFacts, LoadFacts
from thack.reading import BadJson, parse_json


def load(
    directory: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    options: LoadSettings | None = None,
    facts: LoadFacts | None = None,
) -> HuggingFaceModel:
    """Load a directory in evaluation mode, and test that thack can use the model as it is.

    An adapter is merged into its base model: the one beside it, or the one that it names.
    """
    options, facts = options or LoadSettings(), facts or LoadFacts()
    has_adapter = holds_adapter(directory)
    base = base_of(directory) if has_adapter else Source(directory=directory, origin=str(directory))
    for place in {directory: None, base.directory: None}:
        check_directory(place)
    read_config(base.directory)
    require_safetensors(base.directory)
    tokenizer = _tokenizer(directory, base.directory)
    placement = _placement(options)
    if has_adapter:
        with adapters.base_only(base.directory) as place:
            model = _network(place, base.directory, dtype, placement)
        model = adapters.merge_from(model, directory)
        into = "its base model" if base.directory == directory else f"its base model {base.origin}"
        facts = replace(facts, notes=(*facts.notes, f"the adapter in {directory} is merged into {into}"))
    else:
        model = _network(directory, directory, dtype, placement)
    if _has_own_head(model):
        model.config.get_text_config(decoder=True).tie_word_embeddings = False
        facts = replace(facts, notes=(*facts.notes, checkpoint.OWN_HEAD))
    # With a placement, transformers has put every weight where it belongs.
    found = HuggingFaceModel(model if placement else model.to(device), tokenizer, facts).eval()
    found.scores_padded()
    return found


def load_head(
    directory: Path, *, device: torch.device | str, dtype: torch.dtype, options: LoadSettings, facts: LoadFacts
) -> HuggingFaceModel:
    """A model of the embedding, first layer, final norm and head of a directory: its other layers are not read.

    What it computes is not what the model computes. Its final norm and head are the model's own, and so is what follows
    the head.
    """
    if holds_adapter(directory):
        raise ModelError(f"{directory} holds an adapter", hint="merge it first: thack merge")
    check_directory(directory)
    read_config(directory)
    require_safetensors(directory)
    placement = _placement(options)
    with without_report():
        model = _network(directory, directory, dtype, placement, layers=1)
    found = HuggingFaceModel(model if placement else model.to(device), _tokenizer(directory, directory), facts).eval()
    found.scores_padded()
    return found


def load_with_adapter(
    directory: Path,
    settings: LoraSettings,
    *,
    seed: int,
    saved: Path | None,
    device: torch.device | str,
    facts: LoadFacts,
) -> HuggingFaceModel:
    """A frozen base model, in float32 or quantised, with an adapter that trains: the one in `saved`, or a new one.

    Raises:
        UsageError: the directory holds an adapter of its own.
        ModelError: as of `load`; or peft is not installed, or refuses the settings.
    """
    if holds_adapter(directory):
        raise UsageError(
            f"lora.rank = {settings.rank} does not go with {directory}, which holds an adapter of its own",
            hint="merge that one first (thack merge), and train on the result",
        )
    base = load(directory, device=device, dtype=torch.float32, options=_of_base(settings, device), facts=facts)
    below = BaseFacts(origin=facts.origin, fingerprint=base.fingerprint())
    base.release()
    source = Source(directory=directory, origin=facts.origin)
    network = adapters.attach(base.model, settings, base=source, seed=seed, saved=saved)
    return HuggingFaceModel(network, base.tokenizer, replace(base.facts, base=below)).to(device).eval()


def _of_base(settings: LoraSettings, device: torch.device | str) -> LoadSettings:
    """How the frozen model below an adapter is loaded. What is quantised is put on its device as it is read."""
    if not settings.quantization:
        return LoadSettings()
    on_a_gpu = torch.device(device).type != "cpu"
    return LoadSettings(quantization=settings.quantization, device_map=str(device) if on_a_gpu else "")


def _tokenizer(directory: Path, base: Path) -> Tokenizer:
    """Of the model; an adapter that has one of its own brings it, and what ends its base's responses ends its own."""
    if directory == base or not (directory / "tokenizer.json").is_file():
        return Tokenizer.load(base)
    backend = read_backend(directory)
    facts, ends = read_facts(directory, backend), Tokenizer.load(base).facts.ends
    others = (facts.ends.others | ends.ids) - {facts.ends.eos}
    return Tokenizer(backend, replace(facts, ends=replace(facts.ends, others=others)))


def _network(
    place: Path, directory: Path, dtype: torch.dtype, placement: dict[str, Any], *, layers: int | None = None
) -> Any:
    """transformers' model of the files in `place`, or its first layers alone; `directory` is its name in errors."""
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(place, **safe)
        if layers is not None:
            _keep_layers(config.get_text_config(decoder=True), layers)
        cls = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with without_bars():
            model, info = cls.from_pretrained(
                place,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **safe,
                **placement,
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"transformers cannot load {directory}",
            details=str(error).strip().splitlines()[:3],
            hint=_load_hint(error),
        ) from error
    # transformers fills what is missing with random numbers and a warning.
    for kind in ("missing_keys", "mismatched_keys"):
        if info.get(kind):
            raise ModelError(
                f"{directory}: {kind.replace('_keys', '')} weights, such as {min(map(str, info[kind]))}",
                hint="the directory is incomplete, or config.json is another model's",
            )
    model.config._name_or_path = str(directory)
    return model


def _keep_layers(config: Any, layers: int) -> None:
    """Make a configuration that of the first layers; what it lists for each layer, it lists for those."""
    every = config.num_hidden_layers
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == every > layers:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = min(layers, every)


def _load_hint(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "install the package that the message names; the quantisation of these weights needs it"
    return "thack loads causal and encoder-decoder checkpoints whose code ships with transformers"


def _has_own_head(model: Any) -> bool:
    """Whether the configuration ties the head to the embedding and the weights do not."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = getattr(model.config.get_text_config(decoder=True), "tie_word_embeddings", False)
    if not is_tied or head is None or embedding is None:
        return False
    if head.weight is embedding.weight or head.weight.shape != embedding.weight.shape:
        return head.weight is not embedding.weight
    return not torch.equal(head.weight, embedding.weight)


def wrap(model: Any, tokenizer: Any = None, *, role: str = "model") -> HuggingFaceModel:
    """A live transformers model, also one that a trainer has wrapped, as a `LanguageModel`; nothing is copied.

    `tokenizer` is ours, transformers' fast one, or a directory; without it, that of the directory from which the
    model was loaded.
    """
    return HuggingFaceModel(model, tokenizer_of(model, tokenizer, role=role))


def tokenizer_of(model: Any, tokenizer: Any = None, *, role: str = "model") -> Tokenizer:
    """The tokenizer given, as ours, or the one beside the model's weights."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    # A processor of text and images holds its tokenizer.
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if isinstance(tokenizer, str | Path):
        return Tokenizer.load(tokenizer)
    if tokenizer is not None:
        return _from_fast(tokenizer, unwrapped(model), role)
    place = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    if not place:
        raise UsageError(f"the {role} does not know its tokenizer", hint="give it: tokenizer=…")
    return Tokenizer.load(locate(place).directory)


def _from_fast(tokenizer: Any, model: Any, role: str) -> Tokenizer:
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"the {role}'s tokenizer is a {type(tokenizer).__name__}, not a fast one",
            hint="load it with AutoTokenizer.from_pretrained(DIR), or give the directory itself",
        )
    # Saved and read again: the one way in which both libraries agree what the files say.
    with TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        generation, config = (getattr(model, name, None) for name in ("generation_config", "config"))
        ends = getattr(generation, "eos_token_id", None)  # of the live model
        # A generation configuration that was never set repeats the model's.
        is_default = bool(getattr(generation, "_from_model_config", False))
        write_json(Path(place) / "generation_config.json", {"eos_token_id": ends, "_from_model_config": is_default})
        encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        write_json(Path(place) / "config.json", {"is_encoder_decoder": encoder_decoder})
        return Tokenizer.load(place)


def _placement(options: LoadSettings) -> dict[str, Any]:
    """transformers' own options: where the weights go, and in which numbers."""
    placement: dict[str, Any] = {}
    if options.device_map:
        placement["device_map"] = _parsed(options.device_map, "load.device_map")
    if options.quantization:
        placement["quantization_config"] = _parsed(options.quantization, "load.quantization")
    return placement


def _parsed(text: str, key: str) -> Any:
    """A JSON object where it looks like one, else the word itself."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return parse_json(text)
    except BadJson as error:
        raise UsageError(f"{key}: {error}", hint='for example {"quant_method": "hqq", "nbits": 4}') from error


def new_t5(settings: ArchitectureSettings, tokenizer: Tokenizer, seed: int) -> HuggingFaceModel:
    """An untrained T5 (v1.1: gated GELU), float32 on the CPU; the same for the same seed."""
    from transformers import T5Config, T5ForConditionalGeneration

    if settings.hidden_size % settings.num_heads:
        raise UsageError(
            f"hidden_size {settings.hidden_size} does not divide into {settings.num_heads} heads",
            hint="choose a multiple of num_heads",
        )
    config = T5Config(
        vocab_size=tokenizer.size,
        d_model=settings.hidden_size,
        d_kv=settings.hidden_size // settings.num_heads,
        d_ff=settings.intermediate_size or -(-settings.hidden_size * 8 // 48) * 16,
        num_layers=settings.num_layers,
        num_heads=settings.num_heads,
        dropout_rate=settings.dropout,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=ties_head(settings, tokenizer.size),
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.eos_id,
        decoder_start_token_id=tokenizer.pad_id,
        architectures=["T5ForConditionalGeneration"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
    return HuggingFaceModel(model, tokenizer)
