"""A cache for transformers' Trainer: a dataset, a collator and a loss.

B sequences, T input positions, N response tokens of the batch, V vocabulary.

The Trainer gives its loss function the model's outputs and the batch's `labels`, and nothing else. So the labels carry
everything about the response tokens: which rows predict them, and the teacher's target. The gradient is that of thack's
own loop: Σ loss / (response tokens of the whole optimizer step), for any gradient accumulation and number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from thack.cache import Cache
from thack.config import LossSettings
from thack.data.sequence import TokenSequence, cache_positions
from thack.errors import MismatchError, UsageError
from thack.integrations.state import is_sharded
from thack.losses import token_losses
from thack.models.batch import Batch
from thack.models.hf import load as hf
from thack.models.hf.model import inputs_of
from thack.targets.crop import crop
from thack.targets.types import Target
from thack.targets.vocabulary import common_width


class CacheDataset(Dataset[TokenSequence]):
    """The sequences of a cache by position; their targets are read by the collator, a batch at a time.

    It may be shuffled, sharded over ranks and read by worker processes like any map-style dataset.

    Args:
        cache: A cache, or its directory.
    """

    def __init__(self, cache: Cache | Path | str) -> None:
        self.cache = cache if isinstance(cache, Cache) else Cache.open(cache)

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, index: int) -> TokenSequence:
        return self.cache.sequences(index)

    def __getitems__(self, indices: Sequence[int]) -> list[TokenSequence]:
        return [self.cache.sequences(index) for index in indices]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedLabels:
    """The response tokens of a batch with the teacher's target.

    It takes the place of a label tensor: the Trainer moves it to the device and counts its tokens, as it would count
    labels that are not −100.
    """

    rows_N: Tensor  # int64, index into B·T of the logits row that predicts each token
    labels_N: Tensor  # int64
    target: Target
    width: int  # ids on which student and teacher are compared

    def __len__(self) -> int:
        return len(self.labels_N)

    def to(self, device: torch.device | str, **_: Any) -> CachedLabels:
        """The same labels on another device."""
        rows_N, labels_N = (t.to(device, non_blocking=True) for t in (self.rows_N, self.labels_N))
        return replace(self, rows_N=rows_N, labels_N=labels_N, target=self.target.to(device))

    def __getitem__(self, _: Any) -> CachedLabels:
        """The Trainer leaves the first column of causal labels out when it counts; every token here counts."""
        return self

    def ne(self, ignored: int) -> Tensor:
        """One True per response token: there is no padding among them."""
        return torch.ones(len(self), dtype=torch.bool, device=self.labels_N.device)


class CacheCollator:
    """Sequences of a `CacheDataset` as inputs of `model`, with `CachedLabels`.

    Args:
        cache: A cache, or its directory.
        model: The transformers model that is trained.
        tokenizer: Where the model does not know its own: thack's, transformers' fast one, or a directory.

    Raises:
        MismatchError: the student has another tokenizer than the cache.
        ModelError: the model is not causal.
        UsageError: padding changes the model's logits.
    """

    def __init__(self, cache: Cache | Path | str, model: Any, tokenizer: Any = None) -> None:
        self.cache = cache if isinstance(cache, Cache) else Cache.open(cache)
        student = hf.wrap(model, tokenizer, role="student")
        padded = is_sharded(model) or student.scores_padded()
        student.release()
        if not padded:
            raise UsageError(
                f"padding changes the logits of {type(model).__name__}, and a collator pads",
                hint="use `thack distill`, which takes such sequences in batches of equal length",
            )
        meta = self.cache.meta
        if meta.tokenizer != student.tokenizer.fingerprint():
            raise MismatchError(
                "the cache has another tokenizer than the student",
                details=(f"cache    {meta.tokenizer}", f"student  {student.tokenizer.fingerprint()}"),
                hint="the same id would be another token: use a cache and a student that share a tokenizer",
            )
        self.width = common_width(student.tokenizer.size, student=student.vocab_size, cache=meta.vocab_size)
        self.pad_id = student.tokenizer.pad_id
        self.start_id = student.start_id

    def __call__(self, rows: Sequence[TokenSequence | Mapping[str, Any]]) -> dict[str, Tensor | CachedLabels]:
        """input_ids, attention_mask (decoder_input_ids …) and labels.

        `rows` are sequences of a `CacheDataset`, or rows of any data set whose `position` is one in the cache.
        """
        sequences, target = self.cache.targets(
            [row["position"] if isinstance(row, Mapping) else cache_positions([row])[0] for row in rows]
        )
        batch = Batch.of(sequences)
        rows_N, inputs = inputs_of(batch, self.pad_id, self.start_id)
        cropped = crop(target, self.width)
        labels = CachedLabels(rows_N=rows_N, labels_N=batch.labels_N, target=cropped, width=self.width)
        return {**inputs, "labels": labels}


class CacheLoss:
    """A `compute_loss_func`: the divergence from the cached teacher, in nats per token.

    Args:
        settings: Which divergence; None: forward KL.
    """

    def __init__(self, settings: LossSettings | None = None) -> None:
        self.settings = settings or LossSettings()

    def __call__(self, outputs: Any, labels: CachedLabels, num_items_in_batch: Any = None) -> Tensor:
        """Σ loss / response tokens of the optimizer step (of this batch, where the Trainer does not count them)."""
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        logits_NV = logits.reshape(-1, logits.shape[-1]).index_select(0, labels.rows_N)[:, : labels.width]
        total = token_losses(logits_NV, labels.target, labels.labels_N, self.settings).sum()
        if num_items_in_batch is None:
            return total / len(labels)
        # A tensor; under DataParallel one equal entry per device.
        return total / torch.as_tensor(num_items_in_batch, device=total.device).flatten()[0]
