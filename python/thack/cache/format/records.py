"""Between target values and records.

Shape legend as in thack.targets: N response tokens, K kept ids, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from thack.cache.format.layout import RecordLayout
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, Target, TopKTarget


def encode(target: Target, layout: RecordLayout, *, seed: int, keys_N4: Tensor) -> bytearray | memoryview:
    """Records of a target whose tensors are on the CPU; dense ones are its own memory.

    `seed` and `keys_N4` (epoch, example, sample, position) name the dither of sampled weights.
    """
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
    if isinstance(target, FrozenHeadTarget):
        return layout.native.encode_projected(_array(target.entropy_N, np.float32), _array(target.mean_NH, np.float32))
    return layout.native.encode_sampled(
        _array(target.ids_NK, np.int32),
        _array(target.weights_NK, np.float32),
        _array(target.counts_N, np.int32),
        _array(target.tau_N, np.float32),
        _array(target.entropy_N, np.float32),
        _array(keys_N4[:, 1:], np.int64),
        seed,
    )


def realised_log_probs(target: Target) -> np.ndarray:
    """float32 log p of the token that followed each row, for a writer of shards; NaN where it is not known."""
    if target.realised_logprob_N is None:
        return np.full(len(target), np.nan, np.float32)
    return _array(target.realised_logprob_N, np.float32)


def decode(records: bytearray | memoryview, layout: RecordLayout, realised: bytearray | None = None) -> Target:
    """The target that these records hold, on the CPU; `realised`: float32 log p of the tokens that followed."""
    target = _decoded(records, layout)
    if not realised:
        return target
    return replace(target, realised_logprob_N=torch.from_numpy(np.frombuffer(realised, np.float32)))


def _decoded(records: bytearray | memoryview, layout: RecordLayout) -> Target:
    n = len(records) // layout.stride
    if layout.spec.kind == "dense":
        dense = np.frombuffer(records, np.float32).reshape(n, layout.vocab_size)
        layout.native.decode_dense(dense)
        return DenseTarget(log_probs_NV=torch.from_numpy(dense))
    if layout.spec.kind == "projected":
        entropies, means = np.empty(n, np.float32), np.empty((n, layout.spec.k), np.float32)
        layout.native.decode_projected(records, entropies, means)
        return FrozenHeadTarget(
            mean_NH=torch.from_numpy(means), entropy_N=torch.from_numpy(entropies), vocab_size=layout.vocab_size
        )
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
            processed=layout.spec.tail == "processed",
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
