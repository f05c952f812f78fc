"""Any causal or encoder-decoder checkpoint that transformers loads, as a `LanguageModel`.

The only file outside integrations/ that imports transformers. A hook before the output projection takes
the rows that predict response tokens and hands on only those: the head never sees a prompt, and whatever
an architecture does around its head (T5's scaling, soft caps, biases) stays its own business.

Padded vocabularies: logits are as wide as the head, which may have more rows than the tokenizer has ids.
Such rows are never sampled; losses compare models on the ids below the narrower head, renormalised there
(targets/vocabulary.py). A head or an embedding narrower than the tokenizer is refused here.

Shape legend: B sequences, N response tokens, H width, V vocabulary.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import logging as transformers_logging

from thack.config import ArchitectureSettings, LoadSettings
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, ModelError, UsageError
from thack.files import write_json
from thack.models import checkpoint
from thack.models.batch import Batch, right_mask
from thack.models.hf.decoding import CausalDecoding, EncoderDecoderDecoding
from thack.models.hub import locate
from thack.models.native.architecture import Architecture

_UNLIMITED = 1 << 30  # positions of models whose position encoding has no table
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_source_positions")
# Facts of a config.json that change with its place or age, and not with what is computed.
_VOLATILE_KEYS = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}


def load(
    directory: Path, *, device: torch.device | str, dtype: torch.dtype, options: LoadSettings | None = None
) -> HuggingFaceModel:
    """Load a directory in evaluation mode: safetensors only, and no code from the checkpoint is run."""
    options = options or LoadSettings()
    checkpoint.read_config(directory)
    _require_safetensors(directory)
    tokenizer = Tokenizer.load(directory)
    placement = _placement(options)
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(directory, **safe)
        cls = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with _without_bars():
            model, info = cls.from_pretrained(
                directory,
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
            hint="thack loads causal and encoder-decoder checkpoints whose code ships with transformers",
        ) from error
    # transformers fills what is missing with random numbers and a warning.
    for kind in ("missing_keys", "mismatched_keys"):
        if info.get(kind):
            raise ModelError(
                f"{directory}: {kind.replace('_keys', '')} weights, such as {min(map(str, info[kind]))}",
                hint="the directory is incomplete, or config.json is another model's",
            )
    # With a placement, transformers has put every weight where it belongs.
    return HuggingFaceModel(model if placement else model.to(device), tokenizer).eval()


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


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers' own progress bars would break into ours, and fill the logs of jobs."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


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
        return json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"{key} is not JSON ({error})", hint='for example {"quant_method": "hqq", "nbits": 4}'
        ) from error


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
        tie_word_embeddings=settings.tie_head,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.eos_id,
        decoder_start_token_id=tokenizer.pad_id,
        architectures=["T5ForConditionalGeneration"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
    return HuggingFaceModel(model, tokenizer)


def _require_safetensors(directory: Path) -> None:
    if not any(directory.glob("*.safetensors")):
        raise ModelError(
            f"no safetensors weights in {directory}",
            hint="pickled weights are not loaded: load them with transformers once and save_pretrained again",
        )


class HuggingFaceModel(nn.Module):
    """One transformers model in the role of oracle, teacher or student."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        self.tokenizer = tokenizer.for_architecture(encoder_decoder=self.is_encoder_decoder)
        self.full_hash = False
        takes = inspect.signature(unwrapped(model).forward).parameters
        self._takes_positions = "position_ids" in takes
        self.cache_name = "cache" if "cache" in takes else "past_key_values"  # its name up to transformers 5.2x
        self._rows: Tensor | None = None  # set during one call: the rows that are asked for,
        self._num_inputs = 0  # of how many,
        self._project = True  # whether they go through the head,
        self._hidden: Tensor | None = None  # and what they are
        self._check_widths()
        self.start_id = self._decoder_start() if self.is_encoder_decoder else None
        self._hook = self.head().register_forward_pre_hook(self._take_rows)

    @property
    def vocab_size(self) -> int:
        return int(self.head().out_features)

    @property
    def max_positions(self) -> int:
        config = self.model.config.get_text_config(decoder=True)
        if hasattr(config, "relative_attention_num_buckets"):
            return _UNLIMITED
        found = (getattr(config, key, None) for key in _POSITION_KEYS)
        return min((int(n) for n in found if isinstance(n, int) and n > 0), default=_UNLIMITED)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def logit_scale(self) -> float:
        """What the model multiplies its head's product by: Cohere's scale, Granite's divisor."""
        config = self.model.config.get_text_config(decoder=True)
        divisor = getattr(config, "logits_scaling", None) or 1.0
        return float(getattr(config, "logit_scale", None) or 1.0) / float(divisor)

    @property
    def logit_softcap(self) -> float | None:
        """Gemma's bound c on logits, which are c · tanh(logits / c)."""
        cap = getattr(self.model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
        return float(cap) if cap else None

    def head(self) -> nn.Linear:
        """The projection from the hidden rows that `forward(project=False)` returns."""
        head = self.model.get_output_embeddings()
        if not isinstance(head, nn.Module) or not hasattr(head, "out_features"):
            raise ModelError(
                f"{type(self.model).__name__} has no linear output projection",
                hint="it is not a language model that thack can distill",
            )
        return head  # type: ignore[return-value]

    def release(self) -> None:
        """Take the hook out of a model that was only lent to us."""
        self._hook.remove()

    def forward(self, batch: Batch, *, project: bool = True) -> Tensor:
        """logits_NV, or hidden_NH: what the head reads."""
        rows_N, inputs = inputs_of(batch, self.tokenizer.pad_id, self.start_id)
        self._check_length(max(t.shape[1] for t in inputs.values()))
        logits_NV, hidden_NH, _ = self.run(rows_N, project=project, use_cache=False, **inputs)
        return logits_NV if project else hidden_NH

    def start(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> CausalDecoding | EncoderDecoderDecoding:
        """Read the prompts and be ready for the first response token."""
        longest = max(len(p) for p in prompts)
        self._check_length(max(longest, max_new_tokens) if self.is_encoder_decoder else longest + max_new_tokens - 1)
        if self.is_encoder_decoder:
            assert self.start_id is not None
            return EncoderDecoderDecoding(self, prompts, self.start_id)
        return CausalDecoding(self, prompts, takes_positions=self._takes_positions)

    def run(self, rows_N: Tensor, *, project: bool = True, **inputs: Any) -> tuple[Tensor, Tensor, Any]:
        """Call the model; logits_NV and hidden_NH of the given rows of its B·T, and its whole output."""
        read = inputs.get("decoder_input_ids", inputs.get("input_ids"))
        assert read is not None
        self._rows, self._num_inputs, self._project = rows_N, read.numel(), project
        try:
            output = self.model(**inputs, return_dict=True)
            hidden_NH = self._hidden
            assert hidden_NH is not None, "the model's forward did not pass through its output projection"
            return output.logits[0], hidden_NH, output
        finally:
            self._rows = self._hidden = None

    def _take_rows(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Before the head: keep the rows asked for, as one sequence [1, N, H]."""
        if self._rows is None:
            return None
        flat = inputs[0].reshape(-1, inputs[0].shape[-1])
        if len(flat) != self._num_inputs:  # ProphetNet: several predictions for each
            raise ModelError(
                f"{type(self.model).__name__} projects {len(flat)} rows for {self._num_inputs} tokens",
                hint="thack needs models that predict one token from each position",
            )
        self._hidden = flat.index_select(0, self._rows.to(flat.device))  # the last layers may lie elsewhere
        return ((self._hidden if self._project else flat[:0]).unsqueeze(0),)

    def _check_length(self, length: int) -> None:
        if length > self.max_positions:
            raise DataError(
                f"a sequence of {length:,} tokens exceeds the model's {self.max_positions:,} positions",
                hint="lower data.max_prompt_tokens or data.max_response_tokens",
            )

    def _check_widths(self) -> None:
        embeddings = self.model.get_input_embeddings()
        rows = min(self.vocab_size, int(getattr(embeddings, "num_embeddings", self.vocab_size)))
        if rows < self.tokenizer.size:
            raise ModelError(
                f"the model has {rows:,} embeddings, its tokenizer {self.tokenizer.size:,} tokens",
                hint="resize the embeddings, or use the tokenizer it was trained with",
            )

    def _decoder_start(self) -> int:
        for config in (self.model.config, self.model.generation_config):
            for key in ("decoder_start_token_id", "bos_token_id"):
                value = getattr(config, key, None)
                if isinstance(value, int):
                    return value
        raise ModelError("no start token for the decoder is defined", hint="set decoder_start_token_id in config.json")

    def save(self, directory: Path) -> None:
        """Write the directory as transformers does, with the tokenizer's files."""
        directory.mkdir(parents=True, exist_ok=True)
        with _without_bars():
            self.model.save_pretrained(directory, max_shard_size="1000GB")
        self.tokenizer.save(directory)

    def fingerprint(self, *, full: bool | None = None) -> str:
        """Of the configuration and the weights; of content, not of place.

        A model that the native decoder could compute has the native fingerprint, however it was loaded.
        """
        config, state = self.model.config.to_dict(), self.model.state_dict()
        full = self.full_hash if full is None else full
        try:
            architecture = Architecture.read(config)
        except ModelError:
            facts = {k: v for k, v in config.items() if k not in _VOLATILE_KEYS}
            return checkpoint.fingerprint(facts, state, full=full)
        tied = {"lm_head.weight"} if architecture.tie_head else set()
        weights = {k: v for k, v in state.items() if k not in tied}
        return checkpoint.fingerprint(architecture, weights, full=full)


def inputs_of(batch: Batch, pad_id: int, start_id: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    """rows_N of the logits that predict `batch.labels_N`, and a model's inputs; `start_id` None: decoder-only."""
    if start_id is None:
        causal = batch.causal(pad_id)
        return causal.rows_N, {
            "input_ids": causal.tokens_BT,
            "attention_mask": right_mask(causal.lengths_B, causal.tokens_BT.shape[1]),
        }
    layout = batch.encoder_decoder(pad_id, start_id)
    return layout.rows_N, {
        "input_ids": layout.encoder_BS,
        "attention_mask": right_mask(layout.encoder_lengths_B, layout.encoder_BS.shape[1]),
        "decoder_input_ids": layout.decoder_BT,
        # Some models mask decoder positions that hold the pad id, which a start token may be.
        "decoder_attention_mask": right_mask(batch.lengths_B, layout.decoder_BT.shape[1]),
    }


def unwrapped(model: Any) -> Any:
    """The model itself, inside whatever a trainer or peft put around it."""
    for name in ("_orig_mod", "module"):
        while hasattr(model, name):
            model = getattr(model, name)
    return model.get_base_model() if hasattr(model, "get_base_model") else model
