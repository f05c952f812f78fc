"""Oracle, teacher and student are one type in three roles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from thack.data.tokenizer import Tokenizer
from thack.models.batch import Batch


class DecodeState(Protocol):
    """A batch of responses being written, one token at a time, with its key-value cache."""

    def logits(self) -> Tensor:
        """logits_BV of the next token for every live row, float32 or the model's dtype."""

    def append(self, ids_B: Tensor) -> None:
        """Feed the chosen tokens (int64 [B]); the next `logits` follow them."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only (int64 indices, increasing): the finished ones are dropped."""


@runtime_checkable
class LanguageModel(Protocol):
    """A model of responses given prompts: decoder-only or encoder-decoder, native or transformers.

    Every implementation is also an `nn.Module`, so that `model(batch)` passes through DDP and FSDP.
    """

    tokenizer: Tokenizer
    is_encoder_decoder: bool

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
        """The output projection: logits_NV = head(hidden_NH) (times `logit_scale`, soft-capped)."""

    def start(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> DecodeState:
        """Read the prompts (int32 arrays) and be ready for the first response token."""

    def save(self, directory: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer's files, as transformers lays them out."""

    def fingerprint(self, *, full: bool | None = None) -> str:
        """Of architecture and weights, as `checkpoint.fingerprint`: the same for a copied or touched directory.

        None: full where the model was loaded with `load.full_hash`, else sampled.
        """

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def train(self, mode: bool = True) -> LanguageModel: ...
    def eval(self) -> LanguageModel: ...


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Evaluation mode without gradients, for a while; the model's train mode is left as it was."""
    was_training = bool(getattr(model, "training", False))
    model.eval()
    try:
        # Not inference_mode: tensors that the model keeps from it could not be used in a later backward pass.
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
