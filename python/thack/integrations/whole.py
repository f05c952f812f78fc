"""Batches with ordinary label tensors: for trainers that read `labels` themselves, as TRL's SFTTrainer does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thack._torch_private import plain_results
from thack.data.sequence import TokenSequence
from thack.integrations.labels import CachedLabels

IGNORED = -100


def _carrying(name: str) -> Callable[..., TensorLabels]:
    """The operation of Tensor that gives the same labels again, with their target where they are then."""

    def same_labels(labels: TensorLabels, *args: Any, **kwargs: Any) -> TensorLabels:
        found: Tensor = getattr(Tensor, name)(labels, *args, **kwargs)
        return TensorLabels.of(found, labels.cached.to(found.device))

    return same_labels


class TensorLabels(Tensor):
    """labels_BT, −100 where a token is not trained, that carries the teacher's target along.

    It is a tensor for whoever counts or compares labels; `CacheLoss` takes `cached` out of it. What moves or copies it
    keeps the target: a data loader pins its memory where there is CUDA. Every other operation gives a plain tensor.
    """

    __torch_function__ = plain_results()
    cached: CachedLabels

    to = _carrying("to")
    cpu = _carrying("cpu")
    cuda = _carrying("cuda")
    pin_memory = _carrying("pin_memory")
    contiguous = _carrying("contiguous")
    detach = _carrying("detach")
    clone = _carrying("clone")

    @staticmethod
    def of(labels_BT: Tensor, cached: CachedLabels) -> TensorLabels:
        """These labels with their target."""
        found = labels_BT.as_subclass(TensorLabels)
        found.cached = cached
        return found


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
