"""Any causal or encoder-decoder model of transformers, as a `LanguageModel`.

A hook before the output projection passes on only the rows that predict response tokens: the head
never sees a prompt, and whatever an architecture does around its head (T5's scaling, soft caps, biases) stays its own
business. How a model treats padding, later tokens and its cache is tested on it: `probe`.

Padded vocabularies: logits are as wide as the head, which may have more rows than the tokenizer has ids.
Such rows are never sampled; losses compare models on the ids below the narrower head, renormalised there
(targets/vocabulary.py). A head or an embedding may lack added tokens alone (`Tokenizer.for_rows`).

Shape legend: B sequences, N response tokens, H width, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, ModelError
from thack.models import checkpoint
from thack.models.batch import Batch, right_mask
from thack.models.hf import adapters, probe
from thack.models.hf.bars import without_bars
from thack.models.hf.decoding import (
    CausalDecoding,
    CrossingDecoding,
    EncoderDecoderDecoding,
    FixedRows,
    GroupedDecoding,
    RecomputedDecoding,
    grouped,
)
from thack.models.hf.head import measured_form
from thack.models.hf.probe import Generation
from thack.models.hf.quantised import keep_differentiable
from thack.models.native.architecture import Architecture
from thack.models.protocol import DecodeState, HeadForm, LoadFacts
from thack.models.routers import Routers

_UNLIMITED = 1 << 30  # positions of models whose position encoding has no table
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_source_positions")
# Facts of a config.json that change with its place or age, and not with what is computed.
_VOLATILE_KEYS = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}


class HuggingFaceModel(nn.Module):
    """One transformers model in the role of oracle, teacher or student."""

    def __init__(self, model: Any, tokenizer: Tokenizer, facts: LoadFacts | None = None) -> None:
        super().__init__()
        keep_differentiable(model)
        self.model = model
        self.training = model.training  # what is in evaluation mode stays so behind `evaluating`
        self.facts = facts or LoadFacts()
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        rows = min(self.vocab_size, int(getattr(model.get_input_embeddings(), "num_embeddings", self.vocab_size)))
        self.tokenizer = tokenizer.for_architecture(encoder_decoder=self.is_encoder_decoder).for_rows(rows)
        takes = inspect.signature(unwrapped(model).forward).parameters
        self._takes_positions = "position_ids" in takes
        self._cache_name = "cache" if "cache" in takes else "past_key_values"  # its name up to transformers 5.2x
        self._rows: Tensor | None = None  # set during one call: the rows that are asked for,
        self._num_inputs = 0  # of how many,
        self._project = True  # whether they go through the head,
        self._hidden: Tensor | None = None  # and what they are
        # What `probe` finds; None: not tested yet.
        self._padded: bool | None = None
        self._generation: Generation | None = None
        self._head_form: HeadForm | None = None
        self._head_is_measured = False
        self._boundary = _boundary(model.config)
        self.routers = Routers.of(unwrapped(model))
        self.start_id = self._decoder_start() if self.is_encoder_decoder else None
        if self.is_encoder_decoder:
            self._check_first()
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
    def head_form(self) -> HeadForm | None:
        """Measured once, at the first question."""
        if not self._head_is_measured:
            batch = probe.probe_batch(self)
            if batch is not None:
                read = probe.head_reader(self, batch, self._read_both)
                self._head_form = measured_form(self.head(), read, self.model.config.to_dict())
            self._head_is_measured = True
        return self._head_form

    def _read_both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rows_N, inputs = inputs_of(batch, self.tokenizer.pad_id, self.start_id)
        logits_NV, hidden_NH, _ = self._call(rows_N, project=True, use_cache=False, **inputs)
        return logits_NV, hidden_NH

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
        """Remove the hook from a live model that its owner uses on."""
        self._hook.remove()

    def forward(self, batch: Batch, *, project: bool = True) -> Tensor:
        """logits_NV, or hidden_NH: what the head reads."""
        lengths = [len(p) + len(r) - 1 for p, r in zip(batch.prompts, batch.responses, strict=True)]
        is_padded = self.scores_padded()
        groups = grouped([length > self._boundary for length in lengths] if is_padded else lengths)
        if is_padded and len(groups) == 1:
            return self._forward(batch, project=project)
        self._refuse_shards()
        parts, rows = [], []
        ends_B = batch.lengths_B.cumsum(0).tolist()
        for group in groups:
            for members in self._equal_shapes(batch, group):
                parts.append(self._forward(_taken(batch, members), project=project))
                rows += [n for i in members for n in range(ends_B[i] - len(batch.responses[i]), ends_B[i])]
        order_N = torch.argsort(torch.tensor(rows, device=batch.device))
        return torch.cat(parts)[order_N]

    def _equal_shapes(self, batch: Batch, group: Sequence[int]) -> list[list[int]]:
        """Members of a group of equal whole length; for an encoder-decoder, of equal prompts and responses."""
        if not self.is_encoder_decoder:
            return [list(group)]
        return [[group[i] for i in part] for part in grouped([len(batch.prompts[i]) for i in group])]

    def _forward(self, batch: Batch, *, project: bool) -> Tensor:
        rows_N, inputs = inputs_of(batch, self.tokenizer.pad_id, self.start_id)
        self._check_length(max(t.shape[1] for t in inputs.values()))
        asked = {} if self.routers is None else self.routers.inputs
        logits_NV, hidden_NH, output = self._call(rows_N, project=project, use_cache=False, **inputs, **asked)
        if self.routers is not None and asked:
            self.routers.take(output, inputs.get("attention_mask"), len(rows_N))
        return logits_NV if project else hidden_NH

    def scores_padded(self) -> bool:
        """Whether a padded batch scores as its sequences alone; tested once, at the first use.

        Raises:
            ModelError: the model is not causal.
        """
        if self._padded is None:
            self._padded = probe.scores_padded(self)
        return self._padded

    def score(self, batch: Batch, *, first_position: int | None = None) -> Tensor:
        """logits_NV of one padded batch, as the tests of `probe` need them."""
        rows_N, inputs = inputs_of(batch, self.tokenizer.pad_id, self.start_id)
        if first_position is not None:
            width = inputs["input_ids"].shape[1]
            inputs["position_ids"] = torch.arange(width, device=self.device)[None] + first_position
        return self._call(rows_N, project=True, use_cache=False, **inputs)[0]

    def start(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> DecodeState:
        """Read the prompts, ready for the first response token."""
        longest = max(len(p) for p in prompts)
        self._check_length(max(longest, max_new_tokens) if self.is_encoder_decoder else longest + max_new_tokens - 1)
        self.scores_padded()
        if self._generation is None:
            self._generation = probe.best_generation(self, takes_positions=self._takes_positions)
        groups = grouped([self._together(len(p), max_new_tokens, self._generation) for p in prompts])
        states = [self._begun([prompts[i] for i in group], max_new_tokens, self._generation) for group in groups]
        return states[0] if len(states) == 1 else GroupedDecoding(states, groups, self.device)

    def _together(self, length: int, max_new_tokens: int, way: Generation) -> int:
        """A number that prompts share which are read together."""
        if not way.mixed or self._crosses(length, max_new_tokens):
            return length
        return -1 if length > self._boundary else 0

    def _begun(self, prompts: Sequence[np.ndarray], max_new_tokens: int, way: Generation) -> DecodeState:
        """A state of prompts that are read together."""
        if self._crosses(len(prompts[0]), max_new_tokens):
            return CrossingDecoding(partial(self.state, way=way), prompts, self._boundary)
        return self.state(prompts, way)

    def _crosses(self, length: int, max_new_tokens: int) -> bool:
        return length <= self._boundary < length + max_new_tokens - 1

    def state(self, prompts: Sequence[np.ndarray], way: Generation) -> DecodeState:
        """A state of generation in the given way."""
        if not way.cached:
            return RecomputedDecoding(self, prompts)
        pad_id = self.tokenizer.pad_id
        state: DecodeState
        if self.start_id is None:
            state = CausalDecoding(self, prompts, pad_id=pad_id, select=way.select, offset=way.offset)
        else:
            state = EncoderDecoderDecoding(self, prompts, pad_id=pad_id, select=way.select, start_id=self.start_id)
        return state if way.select else FixedRows(state, len(prompts), self.tokenizer.eos_id, self.device)

    def step(self, rows: Tensor, cache: Any, **inputs: Any) -> tuple[Tensor, Any]:
        """logits_BV of the given rows of the B·T tokens, and the cache behind them."""
        logits_BV, _, output = self._call(rows, use_cache=True, **{self._cache_name: cache}, **inputs)
        return logits_BV, getattr(output, self._cache_name, None)

    def encode(self, tokens_BS: Tensor, mask_BS: Tensor) -> Any:
        """What the encoder makes of the prompts."""
        return self.model.get_encoder()(input_ids=tokens_BS, attention_mask=mask_BS, return_dict=True)

    def _call(self, rows_N: Tensor, *, project: bool = True, **inputs: Any) -> tuple[Tensor, Tensor, Any]:
        """Call the model; logits_NV and hidden_NH of the given rows of its B·T, and its whole output."""
        read = inputs.get("decoder_input_ids", inputs.get("input_ids"))
        assert read is not None
        self._rows, self._num_inputs, self._project = rows_N, read.numel(), project
        try:
            output = self.model(**inputs, return_dict=True)
            hidden_NH = self._hidden
            if hidden_NH is None:
                raise ModelError(f"the forward of {type(self.model).__name__} does not call its output projection")
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
        self._hidden = flat.index_select(0, self._rows.to(flat.device))  # the last layers may be on another device
        return ((self._hidden if self._project else flat[:0]).unsqueeze(0),)

    def _refuse_shards(self) -> None:
        """Ranks would make different numbers of calls, and wait for each other for ever."""
        if any(hasattr(parameter, "full_tensor") for parameter in self.model.parameters()):
            raise ModelError(
                f"{type(self.model).__name__} cannot be sharded: other sequences of a batch change its logits",
                hint="use `parallel.strategy = ddp`",
            )

    def _check_length(self, length: int) -> None:
        if length > self.max_positions:
            raise DataError(
                f"a sequence of {length:,} tokens exceeds the model's {self.max_positions:,} positions",
                hint="lower data.max_prompt_tokens or data.max_response_tokens",
            )

    def _decoder_start(self) -> int:
        for config in (self.model.config, self.model.generation_config):
            for key in ("decoder_start_token_id", "bos_token_id"):
                value = getattr(config, key, None)
                if isinstance(value, int):
                    return value
        raise ModelError("no start token for the decoder is defined", hint="set decoder_start_token_id in config.json")

    def _check_first(self) -> None:
        """Refuse a first token of all responses that no text begins with, such as a language of mBART's."""
        configs = (self.model.generation_config, self.model.config)
        forced = next((i for c in configs if isinstance(i := getattr(c, "forced_bos_token_id", None), int)), None)
        first = self.tokenizer.behind_bos(np.empty(0, dtype=np.int32)).tolist()
        if forced is not None and first != [forced]:
            raise ModelError(
                f"forced_bos_token_id = {forced}: thack lets the model choose the first token of a response",
                hint="remove it from generation_config.json and config.json, if the model is to choose it",
            )

    def save(self, directory: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the directory as transformers does, with the tokenizer's files.

        An adapter that is trained is written alone, as peft does; any other is merged.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with without_bars():
            if self.facts.base is not None:
                adapters.save(self.model, directory)
            else:
                model = adapters.merged_copy(self.model) if adapters.is_peft(self.model) else self.model
                model.save_pretrained(directory, max_shard_size="1000GB")
        if dtype is not None:
            checkpoint.cast_directory(directory, dtype)
        checkpoint.add_ends(directory, self.tokenizer.ends)
        self.tokenizer.save(directory)

    def fingerprint(self, *, full: bool | None = None) -> str:
        """Of the configuration and the weights; of content, not of place.

        A model that the native decoder could compute has the native fingerprint, however it was loaded.
        """
        config, state = self.model.config.to_dict(), self.model.state_dict()
        full = self.facts.full_hash if full is None else full
        try:
            architecture = Architecture.read(config)
        except ModelError:
            facts = {k: v for k, v in config.items() if k not in _VOLATILE_KEYS}
            return checkpoint.fingerprint(facts, state, full=full)
        tied = {"lm_head.weight"} if architecture.tie_head else set()
        weights = {k: v for k, v in state.items() if k not in tied}
        return checkpoint.fingerprint(architecture, weights, full=full)


def _taken(batch: Batch, members: Sequence[int]) -> Batch:
    """Some sequences of a batch."""
    return Batch.of(
        [
            TokenSequence(example=i, prompt_id=str(i), prompt_ids=batch.prompts[i], response_ids=batch.responses[i])
            for i in members
        ],
        batch.device,
    )


def _boundary(config: Any) -> int:
    """Tokens above which LongRoPE (Phi-3, Phi-4-mini) encodes all positions of a text in another way.

    The longest text of a call decides for all.
    """
    found = config.get_text_config(decoder=True).to_dict().get("rope_parameters") or {}
    each = [found, *(rope for rope in found.values() if isinstance(rope, dict))]  # one for all layers, or by their kind
    lengths = (rope["original_max_position_embeddings"] for rope in each if rope.get("rope_type") == "longrope")
    return min(lengths, default=_UNLIMITED)


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
