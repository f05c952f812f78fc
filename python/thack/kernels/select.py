"""What to keep of a row of logits: the most likely ids, one sampled id, or an unbiased sparse sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thack import _native
from thack.errors import UsageError
from thack.kernels import torch_reference as gpu
from thack.kernels.buffers import key_words, rows
from thack.kernels.topk import TopK
from thack.targets.types import SampledTarget

__all__ = ["TopK", "sample", "threshold_sample", "topk_logsumexp"]


def topk_logsumexp(logits_NV: Tensor, k: int, *, temperatures: Sequence[float] = ()) -> TopK:
    """The k most likely ids of each row (ties to the lowest id; all V if k ≥ V), and what is left of the mass.

    log_tail_N = log Σ_{v∉S} p_v, summed over the others and never as 1 − Σp; log_tail_at[T] =
    log Σ_{v∉S} p_v^(1/T). ModelError names the row that holds NaN or +inf, or fewer than k finite values.
    """
    k = _checked_k(logits_NV, k)
    if logits_NV.device.type != "cpu":
        return gpu.topk_logsumexp(logits_NV, k, temperatures=temperatures)
    words, name, vocab = rows(logits_NV)
    n = len(logits_NV)
    ids, log_probs = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    logsumexp, tails = np.empty(n, np.float32), np.empty((n, 1 + len(temperatures)), np.float32)
    _native.topk_logsumexp(words, name, vocab, k, list(temperatures), ids, log_probs, logsumexp, tails)
    columns = torch.from_numpy(np.ascontiguousarray(tails.T))
    return TopK(
        ids_NK=torch.from_numpy(ids),
        log_probs_NK=torch.from_numpy(log_probs),
        logsumexp_N=torch.from_numpy(logsumexp),
        log_tail_N=columns[0],
        log_tail_at={t: columns[i + 1] for i, t in enumerate(temperatures)},
    )


def sample(
    logits_NV: Tensor,
    *,
    seed: int,
    keys_N4: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    greedy: bool = False,
) -> Tensor:
    """ids_N int64: one draw per row by inverse CDF, after temperature, top-k, top-p, min-p in that order.

    The random number of a row is a function of (seed, keys): epoch, prompt, sample, position, each below 2^32.
    """
    if logits_NV.device.type != "cpu":
        return gpu.sample(
            logits_NV,
            seed=seed,
            keys_N4=keys_N4,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            greedy=greedy,
        )
    words, name, vocab = rows(logits_NV)
    ids = np.empty(len(logits_NV), np.int64)
    keys = key_words(keys_N4)
    _native.sample_rows(words, name, vocab, seed, keys, temperature, top_k, top_p, min_p, greedy, ids)
    return torch.from_numpy(ids)


def threshold_sample(logits_NV: Tensor, k: int, *, seed: int, keys_N4: Tensor) -> SampledTarget:
    """An unbiased sparse estimate of softmax(logits) with k ids: heads p ≥ τ keep p, the rest gets τ each.

    τ solves Σ min(1, p/τ) = k; the rest is drawn in one systematic pass. Off the CPU the rows are copied to it.
    """
    k = _checked_k(logits_NV, k)
    words, name, vocab = rows(logits_NV.cpu())
    n = len(logits_NV)
    ids, weights, counts = np.empty((n, k), np.int32), np.empty((n, k), np.float32), np.empty(n, np.int32)
    tau, entropy = np.empty(n, np.float32), np.empty(n, np.float32)
    _native.threshold_sample(words, name, vocab, k, seed, key_words(keys_N4), ids, weights, counts, tau, entropy)
    found = SampledTarget(
        ids_NK=torch.from_numpy(ids),
        weights_NK=torch.from_numpy(weights),
        counts_N=torch.from_numpy(counts),
        tau_N=torch.from_numpy(tau),
        entropy_N=torch.from_numpy(entropy),
        vocab_size=vocab,
    )
    return found.to(logits_NV.device)


def _checked_k(logits_NV: Tensor, k: int) -> int:
    if k < 1:
        raise UsageError(f"k = {k}: at least one id must be kept")
    return min(k, logits_NV.shape[1])
