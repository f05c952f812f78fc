"""Between a teacher's logits, target values and records.

Shape legend as in thack.targets: N response tokens, K kept ids, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thack.cache.format.layout import RecordLayout
from thack.data.sequence import TokenSequence
from thack.errors import ModelError
from thack.losses.vocabulary import log_probs
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget


def row_keys(sequences: Sequence[TokenSequence], examples: Sequence[int]) -> np.ndarray:
    """int64 [N, 4] of every response token: epoch 0, prompt, sample, position: names its random numbers."""
    keys = [
        np.stack(
            [
                np.zeros(len(s.response_ids), dtype=np.int64),
                np.full(len(s.response_ids), example, dtype=np.int64),
                np.full(len(s.response_ids), s.sample, dtype=np.int64),
                np.arange(len(s.response_ids), dtype=np.int64),
            ],
            axis=1,
        )
        for s, example in zip(sequences, examples, strict=True)
    ]
    return np.concatenate(keys)


def select(logits_NV: Tensor, layout: RecordLayout, *, seed: int, keys_N4: Tensor) -> Target:
    """What the record keeps of each row, on the device of the logits. NaN and infinite rows are refused."""
    if layout.spec.kind == "dense":
        found = log_probs(logits_NV, layout.vocab_size)
        if torch.isnan(found.sum()):
            row = int(torch.isnan(found).any(dim=1).nonzero()[0])
            raise ModelError(f"row {row}: the teacher's logits hold NaN or infinity")
        return DenseTarget(log_probs_NV=found)
    from thack import kernels

    if layout.spec.kind == "sampled":
        return kernels.threshold_sample(logits_NV, layout.spec.k, seed=seed, keys_N4=keys_N4)
    top = kernels.topk_logsumexp(logits_NV, layout.spec.k, temperatures=layout.spec.temperatures)
    return TopKTarget(
        ids_NK=top.ids_NK,
        log_probs_NK=top.log_probs_NK,
        log_tail_N=top.log_tail_N,
        vocab_size=layout.vocab_size,
        log_tail_at=top.log_tail_at,
    )


def encode(target: Target, layout: RecordLayout, *, seed: int, keys_N4: np.ndarray) -> bytearray | memoryview:
    """Records of a target whose tensors are on the CPU; dense ones are its own memory."""
    if isinstance(target, DenseTarget):
        dense = _array(target.log_probs_NV, np.float32)
        layout.native.check_dense(dense)
        return dense.data.cast("B")
    if isinstance(target, TopKTarget):
        tail = np.empty(0, np.float32) if target.log_tail_N is None else _array(target.log_tail_N, np.float32)
        tails_at = [_array(target.log_tail_at[t], np.float32) for t in layout.spec.temperatures]
        return layout.native.encode_top_k(
            _array(target.ids_NK, np.int32),
            _array(target.log_probs_NK, np.float32),
            tail,
            np.stack(tails_at) if tails_at else np.empty(0, np.float32),
        )
    return layout.native.encode_sampled(
        _array(target.ids_NK, np.int32),
        _array(target.weights_NK, np.float32),
        _array(target.counts_N, np.int32),
        _array(target.tau_N, np.float32),
        _array(target.entropy_N, np.float32),
        np.ascontiguousarray(keys_N4[:, 1:]),
        seed,
    )


def decode(records: bytearray, layout: RecordLayout) -> Target:
    """The target that these records hold, on the CPU."""
    n = len(records) // layout.stride
    if layout.spec.kind == "dense":
        dense = np.frombuffer(records, np.float32).reshape(n, layout.vocab_size)
        layout.native.decode_dense(dense)
        return DenseTarget(log_probs_NV=torch.from_numpy(dense))
    ids, values = np.empty((n, layout.spec.k), np.int32), np.empty((n, layout.spec.k), np.float32)
    if layout.spec.kind == "top-k":
        tail = np.empty(n if layout.spec.tail != "none" else 0, np.float32)
        tails_at = np.empty((len(layout.spec.temperatures), n), np.float32)
        layout.native.decode_top_k(records, ids, values, tail, tails_at)
        return TopKTarget(
            ids_NK=torch.from_numpy(ids),
            log_probs_NK=torch.from_numpy(values),
            log_tail_N=torch.from_numpy(tail) if layout.spec.tail != "none" else None,
            vocab_size=layout.vocab_size,
            log_tail_at={t: torch.from_numpy(tails_at[i]) for i, t in enumerate(layout.spec.temperatures)},
        )
    counts, tau, entropy = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32)
    layout.native.decode_sampled(records, ids, values, counts, tau, entropy)
    return SampledTarget(
        ids_NK=torch.from_numpy(ids),
        weights_NK=torch.from_numpy(values),
        counts_N=torch.from_numpy(counts),
        tau_N=torch.from_numpy(tau),
        entropy_N=torch.from_numpy(entropy),
        vocab_size=layout.vocab_size,
    )


def _array(tensor: Tensor, dtype: type[np.generic]) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=dtype)
