"""A cache for transformers' Trainer: a dataset, a collator and a loss.

B sequences, T input positions, N response tokens of the batch, V vocabulary.

The Trainer gives its loss function the model's outputs and the batch's `labels`, and nothing else. So the labels carry
everything about the response tokens: which rows predict them, and the teacher's target. The gradient is that of thack's
own loop: Σ loss / (response tokens of the whole optimizer step), for any gradient accumulation and number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from thack.cache import Cache
from thack.checks.losses import check_loss_alone
from thack.config import LossSettings
from thack.data.sequence import TokenSequence, cache_positions
from thack.errors import MismatchError, UsageError
from thack.integrations.labels import CachedLabels
from thack.integrations.state import is_sharded
from thack.integrations.whole import TensorLabels, whole_inputs
from thack.losses import token_losses
from thack.models.batch import Batch
from thack.models.hf import load as hf
from thack.models.hf.model import inputs_of
from thack.targets.crop import crop
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


class CacheCollator:
    """Sequences of a `CacheDataset` as inputs of `model`, with `CachedLabels`.

    Args:
        cache: A cache, or its directory.
        model: The transformers model that is trained.
        tokenizer: Where the model does not know its own: thack's, transformers' fast one, or a directory.
        tensor_labels: Labels are a tensor, −100 where a token is not trained, that carries the target along: for a
            trainer that reads labels itself, as TRL's SFTTrainer does.

    Raises:
        MismatchError: the student has another tokenizer than the cache.
        ModelError: the model is not causal.
        UsageError: padding changes the model's logits.
    """

    def __init__(
        self, cache: Cache | Path | str, model: Any, tokenizer: Any = None, *, tensor_labels: bool = False
    ) -> None:
        self.cache = cache if isinstance(cache, Cache) else Cache.open(cache)
        student = hf.wrap(model, tokenizer, role="student")
        self._routers = student.routers
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
        self.tensor_labels = tensor_labels
        if tensor_labels and student.is_encoder_decoder:
            raise UsageError("tensor_labels: an encoder-decoder's labels are the response alone", hint="leave it out")

    def __call__(self, rows: Sequence[TokenSequence | Mapping[str, Any]]) -> dict[str, Tensor | CachedLabels]:
        """input_ids, attention_mask (decoder_input_ids …) and labels.

        `rows` are sequences of a `CacheDataset`, or rows of any data set whose `position` is one in the cache.
        """
        sequences, target = self.cache.targets(
            [row["position"] if isinstance(row, Mapping) else cache_positions([row])[0] for row in rows]
        )
        cropped, labels_N = (
            crop(target, self.width),
            torch.from_numpy(np.concatenate([s.response_ids for s in sequences])),
        )
        if self.tensor_labels:
            inputs, labels_BT, rows_N = whole_inputs(sequences, self.pad_id)
        else:
            rows_N, inputs = inputs_of(Batch.of(sequences), self.pad_id, self.start_id)
        cached = CachedLabels(
            rows_N=rows_N,
            labels_N=labels_N.long(),
            target=cropped,
            width=self.width,
            router_weight=0.0 if self._routers is None else self._routers.weight,
        )
        return {**inputs, "labels": TensorLabels.of(labels_BT, cached) if self.tensor_labels else cached}


class CacheLoss:
    """A `compute_loss_func`: the divergence from the cached teacher, in nats per token.

    In training, the balancing loss of a mixture of experts is added where its config.json asks for it
    (`output_router_logits`), as `thack distill` does.

    Args:
        settings: Which divergence; None: forward KL.

    Raises:
        UsageError, UndefinedLoss: a setting that a loss alone cannot follow; on a call, labels that lost the target.
    """

    def __init__(self, settings: LossSettings | None = None) -> None:
        self.settings = settings or LossSettings()
        check_loss_alone(self.settings)

    def __call__(self, outputs: Any, labels: CachedLabels | TensorLabels, num_items_in_batch: Any = None) -> Tensor:
        """Σ loss / response tokens of the optimizer step (of this batch, where the Trainer does not count them)."""
        if isinstance(labels, TensorLabels):
            labels = labels.cached
        if not isinstance(labels, CachedLabels):
            raise UsageError(
                f"labels are a {type(labels).__name__} without the teacher's target",
                hint="give `CacheLoss` the labels as a `CacheCollator` made them: what is computed of them loses the "
                "target, as does a split over several devices of one process",
            )
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        logits_NV = logits.reshape(-1, logits.shape[-1]).index_select(0, labels.rows_N)[:, : labels.width]
        total = token_losses(logits_NV, labels.target, labels.labels_N, self.settings).sum()
        balance = outputs.get("aux_loss") if isinstance(outputs, dict) else None
        if balance is not None and torch.is_grad_enabled():
            total = total + labels.router_weight * len(labels) * balance.mean().to(total.device)
        if num_items_in_batch is None:
            return total / len(labels)
        # A tensor; under DataParallel one equal entry per device.
        return total / torch.as_tensor(num_items_in_batch, device=total.device).flatten()[0]
