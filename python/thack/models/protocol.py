"""Oracle, teacher and student are one type in three roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from thack.data.tokenizer import Tokenizer
from thack.models.batch import Batch
from thack.models.routers import Routers


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """The frozen model below an adapter that is trained.

    Args:
        origin: as `LoadFacts.origin`.
        fingerprint: of the model without the adapter.
    """

    origin: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFacts:
    """What is known of a model beside its configuration and weights; set once, by whoever loads or creates it.

    Args:
        origin: what it was loaded from: a directory, or `org/name@commit`; empty for a model created in memory.
        full_hash: whether its fingerprint is of every number (`load.full_hash`).
        dtype: the number format of the weights on disk, if it is one format; None: float32, several, or not from disk.
        generation_config: content of generation_config.json, which a saved model gets too.
        notes: what loading did that its directory does not say, such as merging an adapter; one sentence each.
        base: the model below its adapter, of which the adapter alone is trained and saved; None: there is none.
    """

    origin: str = ""
    full_hash: bool = False
    dtype: torch.dtype | None = None
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    base: BaseFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadForm:
    """What a model does to its head's product: logits = softcap · tanh(scale · product / softcap).

    Args:
        scale: factor of the product, such as Cohere's `logit_scale`.
        softcap: bound of the logits, such as Gemma's `final_logit_softcapping`; None: not bounded.
    """

    scale: float = 1.0
    softcap: float | None = None


class DecodeState(Protocol):
    """A batch of responses being generated, one token at a time."""

    def logits(self) -> Tensor:
        """logits_BV of the next token for every live row, float32 or the model's dtype."""

    def append(self, ids_B: Tensor) -> None:
        """Feed the chosen tokens (int64 [B]); the next `logits` follow them."""

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only (int64 indices, increasing): the finished ones are dropped."""


@runtime_checkable
class LanguageModel(Protocol):
    """A model of responses given prompts: decoder-only or encoder-decoder, native or transformers.

    Every implementation is also an `nn.Module`, so that `model(batch)` passes through DDP and FSDP.
    """

    tokenizer: Tokenizer  # its ends are the ids that end a response
    is_encoder_decoder: bool
    training: bool
    facts: LoadFacts

    @property
    def routers(self) -> Routers | None:
        """Of a mixture of experts; None: there are no experts."""

    @property
    def head_form(self) -> HeadForm | None:
        """How logits follow from `head()`'s product, exactly; None where the model does anything else to them."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits: rows of the head, which may exceed the tokenizer's size (padding)."""

    @property
    def max_positions(self) -> int:
        """Longest prompt + response (decoder-only), or longest of either (encoder-decoder)."""

    @property
    def device(self) -> torch.device: ...

    def forward(self, batch: Batch, *, project: bool = True) -> Tensor:
        """logits_NV, one row per response token of `batch` in order; hidden_NH if not `project`."""

    def __call__(self, batch: Batch, *, project: bool = True) -> Tensor: ...

    def head(self) -> nn.Linear:
        """The output projection of `forward(project=False)`; `head_form` says what follows it."""

    def start(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> DecodeState:
        """Read the prompts (int32 arrays), ready for the first response token."""

    def save(self, directory: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json, model.safetensors and the tokenizer's files, as transformers lays them out.

        Args:
            directory: Created if need be.
            dtype: Number format of the weights in the file; None: as they are.
        """

    def fingerprint(self, *, full: bool | None = None) -> str:
        """Of architecture and weights, as `checkpoint.fingerprint`: the same for a copied or touched directory.

        None: full where the model was loaded with `load.full_hash`, else sampled.
        """

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def train(self, mode: bool = True) -> LanguageModel: ...
    def eval(self) -> LanguageModel: ...


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Evaluation mode without gradients inside the block; the training mode is left as it was."""
    was_training = model.training
    model.eval()
    try:
        # Not inference_mode: tensors that the model keeps from it could not be used in a later backward pass.
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
