"""Whether a target, labels and weights are of the rows that they go with: broadcasting would hide that they are not."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from thack.errors import MismatchError
from thack.targets.cells import CellTarget
from thack.targets.projected import ProjectedTeacher
from thack.targets.published import PublishedTarget
from thack.targets.types import Target


def check_target(shape: Sequence[int], target: Target | CellTarget | PublishedTarget | ProjectedTeacher | None) -> None:
    """Raise MismatchError where a target is of other rows, or of other ids, than the student's logits [N, V]."""
    if target is not None and (len(target), target.vocab_size) != tuple(shape):
        raise MismatchError(
            "student logits and target have different shapes",
            details=(
                f"student  {tuple(shape)}",
                f"target   {(len(target), target.vocab_size)} (tokens, vocabulary)",
            ),
        )


def check_rows(rows: int, **tensors: Tensor | None) -> None:
    """Raise MismatchError where a tensor that is given is not one number for each row; names it."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != (rows,):
            raise MismatchError(
                f"{name} has shape {tuple(tensor.shape)}: one number is needed for each of {rows:,} tokens",
                hint="take labels, weights and target of the same batch",
            )


def check_labels(shape: Sequence[int], labels_N: Tensor) -> None:
    """Raise MismatchError for labels of other rows; on the CPU also for one that is no id, as a device does itself."""
    rows, vocab_size = shape
    check_rows(rows, labels_N=labels_N)
    if labels_N.device.type == "cpu" and bool((wrong_N := (labels_N < 0) | (labels_N >= vocab_size)).any()):
        raise MismatchError(
            f"label {int(labels_N[wrong_N][0])} is outside the vocabulary of {vocab_size:,}",
            hint="leave out the tokens that are not trained on; were the labels made by another tokenizer?",
        )
