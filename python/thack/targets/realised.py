"""The teacher's log-probability of the token that was realised: known from a record, or read from a whole row."""

from __future__ import annotations

import torch
from torch import Tensor

from thack.errors import UndefinedLoss
from thack.models.batch import Batch
from thack.models.precision import Precision
from thack.models.protocol import LanguageModel
from thack.targets.projected import ProjectedTeacher, before_head, teacher_logits
from thack.targets.select import teacher_log_probs
from thack.targets.types import DenseTarget, Target

_CHUNK_ELEMENTS = 1 << 24


def realised_log_probs(target: Target | ProjectedTeacher, labels_N: Tensor) -> Tensor:
    """log p of each row's label, float32 at least.

    Args:
        target: with its `realised_logprob_N`, or dense; before its head, it is projected in chunks.
        labels_N: int64, the response tokens.

    Raises:
        UndefinedLoss: it is not known of some rows.

    Example:
        >>> target = DenseTarget(log_probs_NV=torch.tensor([[0.25, 0.75]]).log())
        >>> round(float(realised_log_probs(target, torch.tensor([1])).exp()), 4)
        0.75
    """
    if isinstance(target, ProjectedTeacher):
        size = max(1, _CHUNK_ELEMENTS // len(target.head.weight_VH))
        chunks = [slice(start, start + size) for start in range(0, len(labels_N), size)]
        return torch.cat([realised_log_probs(target.rows(rows), labels_N[rows]) for rows in chunks])
    found_N = target.realised_logprob_N
    if found_N is None:
        if not isinstance(target, DenseTarget):
            raise _unknown(len(target), len(target))
        return target.log_probs_NV.gather(1, labels_N[:, None])[:, 0]
    if lacking := int(torch.isnan(found_N).sum()):
        raise _unknown(lacking, len(target))
    return found_N


def scored_log_probs(model: LanguageModel, batch: Batch, width: int, precision: Precision) -> Tensor:
    """log q of every response token of `batch` under `model`, over its first `width` ids; float32 at least."""
    if model.head_form is not None:
        return realised_log_probs(before_head(model, batch, precision, width), batch.labels_N)
    log_q_NV = teacher_log_probs(teacher_logits(model, batch, precision), width)
    return realised_log_probs(DenseTarget(log_probs_NV=log_q_NV), batch.labels_N)


def _unknown(lacking: int, total: int) -> UndefinedLoss:
    return UndefinedLoss(
        f"the teacher's log-probability of the response token is not known of {lacking:,} of {total:,} rows",
        hint="cache the responses with `thack cache-logits`, which keeps it (format 1.1), or use a live `teacher`",
    )
