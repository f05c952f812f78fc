"""Batches with ordinary label tensors: for trainers that read `labels` themselves, as TRL's SFTTrainer does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thack._torch_private import plain_results
from thack.data.sequence import TokenSequence
from thack.integrations.labels import CachedLabels

IGNORED = -100


class TensorLabels(Tensor):
    """labels_BT, −100 where a token is not trained, that carries the teacher's target along.

    It is a tensor for whoever counts or compares labels; `CacheLoss` takes `cached` out of it. Every operation on it
    gives a plain tensor, but a move to another device.
    """

    __torch_function__ = plain_results()
    cached: CachedLabels

    @staticmethod
    def of(labels_BT: Tensor, cached: CachedLabels) -> TensorLabels:
        """These labels with their target."""
        found = labels_BT.as_subclass(TensorLabels)
        found.cached = cached
        return found

    def to(self, *args: Any, **kwargs: Any) -> TensorLabels:
        """The same labels on another device."""
        moved = self.as_subclass(Tensor).to(*args, **kwargs)
        return TensorLabels.of(moved, self.cached.to(moved.device))


def whole_inputs(sequences: Sequence[TokenSequence], pad_id: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """input_ids and attention_mask of prompt and whole response, labels_BT, and the rows that predict a response.

    T is one longer than in a `Batch`, which leaves the last response token out, since it is never read.
    """
    wholes = [np.concatenate([s.prompt_ids, s.response_ids]) for s in sequences]
    width = max(map(len, wholes))
    input_ids = np.full((len(wholes), width), pad_id, np.int64)
    mask, labels = np.zeros_like(input_ids), np.full_like(input_ids, IGNORED)
    rows = []
    for row, (s, whole) in enumerate(zip(sequences, wholes, strict=True)):
        first, last = len(s.prompt_ids), len(whole)
        input_ids[row, :last], mask[row, :last], labels[row, first:last] = whole, 1, s.response_ids
        rows.append(np.arange(first - 1, last - 1) + row * width)
    inputs = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
    return inputs, torch.from_numpy(labels), torch.from_numpy(np.concatenate(rows))
