"""How far each kind of record moves a student's gradient: ‖Wᵀp̂ − Wᵀp‖ per token, through a head W.

The gradient of forward KL by the hidden state is Wᵀq − Wᵀp, whatever the student is. So what a record p̂ says instead of
the teacher p moves it by Wᵀp̂ − Wᵀp, in the units of the head's rows. p̂ is read back from the record itself, rounding
included: of top-k with its tail spread evenly over the other ids, as `TargetCost.kl_lost` takes it; of a sampled record
its weights, whose error is noise of mean 0; of a projected one its vector. The yardstick is what the response token
alone says, as supervised fine-tuning takes it.

N tokens, V vocabulary, H width of the head, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thack.cache.format.layout import RecordLayout
from thack.cache.format.records import decode, encode
from thack.schema.targets import TargetSpec
from thack.targets.frozen_head import FrozenHead
from thack.targets.select import select
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, Target

_MOST_TOKENS = 256  # that are measured: one product with the whole head for each kind
_CHUNK_ELEMENTS = 1 << 24


def sample_rows(count: int) -> Tensor:
    """At most `_MOST_TOKENS` of `count` rows, evenly spread."""
    return torch.linspace(0, count - 1, min(count, _MOST_TOKENS)).long()


def gradient_errors(log_p_NV: Tensor, head: FrozenHead, specs: Sequence[TargetSpec]) -> list[float]:
    """Mean ‖Wᵀp̂ − Wᵀp‖ over the rows, of each kind of record.

    Args:
        log_p_NV: the teacher's log-probabilities, on the CPU.
        head: of V rows.
        specs: of records.
    """
    keys_N4 = torch.zeros(len(log_p_NV), 4, dtype=torch.int64)
    keys_N4[:, 3] = torch.arange(len(log_p_NV))
    exact_NH = head.project(log_p_NV).mean_NH
    found = []
    for spec in specs:
        target = select(log_p_NV, spec, width=log_p_NV.shape[1], keys_N4=keys_N4, head=head)
        layout = RecordLayout(spec=spec, vocab_size=log_p_NV.shape[1])
        stored = decode(memoryview(encode(target, layout, seed=0, keys_N4=keys_N4)), layout)
        found.append(float((projected(stored, head) - exact_NH).norm(dim=1).mean()))
    return found


def hard_error(log_p_NV: Tensor, labels_N: Tensor, head: FrozenHead) -> float:
    """Mean ‖W_y − Wᵀp‖: of the response token alone."""
    return float((head.weight_VH[labels_N] - head.project(log_p_NV).mean_NH).norm(dim=1).mean())


def projected(target: Target, head: FrozenHead) -> Tensor:
    """Wᵀp̂ of each row [N, H], float32."""
    if isinstance(target, FrozenHeadTarget):
        return target.mean_NH
    size = max(1, _CHUNK_ELEMENTS // target.vocab_size)
    chunks = [slice(start, start + size) for start in range(0, len(target), size)]
    return torch.cat([spread(target.rows(rows)) @ head.weight_VH for rows in chunks])


def spread(target: Target) -> Tensor:
    """p̂_CV of each row, over the whole vocabulary."""
    if isinstance(target, DenseTarget):
        return target.log_probs_NV.exp()
    assert not isinstance(target, FrozenHeadTarget)
    p_CV = torch.zeros(len(target), target.vocab_size)
    if isinstance(target, SampledTarget):
        return p_CV.scatter_add_(1, target.ids_NK.long(), target.weights_NK)
    assert target.log_tail_N is not None
    others = target.vocab_size - target.ids_NK.shape[1]
    p_CV += (target.log_tail_N.exp() / max(others, 1))[:, None]
    return p_CV.scatter_(1, target.ids_NK.long(), target.log_probs_NK.exp())
