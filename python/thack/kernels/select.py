"""What to keep of a row of logits: the k most likely ids, one sampled id, or an unbiased sparse sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thack import _native
from thack.errors import UsageError
from thack.kernels import torch_reference
from thack.kernels.buffers import array, rows, use_torch_threads
from thack.kernels.types import ThresholdSample, TopK


def topk_logsumexp(
    logits_NV: Tensor, k: int, *, temperatures: Sequence[float] = (), labels_N: Tensor | None = None
) -> TopK:
    """The k most likely ids of each row, ties to the lowest id, and the log of the tail mass.

    log_tail_N = log Σ_{v∉S} p_v is summed over the other ids, never as 1 − Σp; log_tail_at[T] = log Σ_{v∉S} p_v^(1/T).

    Args:
        logits_NV: float32, bfloat16 or float16, on any device; −inf is a logit without mass.
        k: ids to keep, at least 1; all V where it is V or more.
        temperatures: further temperatures of the log-tail, above 0.
        labels_N: an id of each row whose log-probability is wanted, by the same sum; None: of none.

    Returns:
        Tensors on the device of the logits.

    Raises:
        ModelError: a row holds NaN or +inf, or fewer than k finite logits; names the row. Or a label is not below V.
        UsageError: k is below 1, a temperature is not above 0, or a tensor has another shape or number format.

    Example:
        >>> top = topk_logsumexp(torch.tensor([[0.0, 2.0, 1.0]]), 2)
        >>> top.ids_NK.tolist()
        [[1, 2]]
        >>> round(float(top.log_tail_N.exp()), 3)
        0.09
    """
    k = _checked_k(logits_NV, k)
    for temperature in temperatures:
        if not 0 < temperature < math.inf:
            raise UsageError(f"a temperature of {temperature} is not above 0 and finite")
    if logits_NV.device.type != "cpu":
        return torch_reference.topk_logsumexp(logits_NV, k, temperatures=temperatures, labels_N=labels_N)
    use_torch_threads()
    elements, name, vocab = rows(logits_NV)
    n = len(logits_NV)
    ids, log_probs = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    logsumexp, tails = np.empty(n, np.float32), np.empty((n, 1 + len(temperatures)), np.float32)
    labels, realised = _labels(labels_N, n)
    _native.topk_logsumexp(
        elements, name, vocab, k, list(temperatures), ids, log_probs, logsumexp, tails, labels, realised
    )
    columns = torch.from_numpy(np.ascontiguousarray(tails.T))
    return TopK(
        ids_NK=torch.from_numpy(ids),
        log_probs_NK=torch.from_numpy(log_probs),
        logsumexp_N=torch.from_numpy(logsumexp),
        log_tail_N=columns[0],
        log_tail_at={t: columns[i + 1] for i, t in enumerate(temperatures)},
        realised_logprob_N=None if labels_N is None else torch.from_numpy(realised),
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
    """One id per row by inverse CDF, after temperature, top-k, top-p and min-p in that order.

    Args:
        logits_NV: float32, bfloat16 or float16, on any device.
        seed: 0 ≤ seed < 2^64.
        keys_N4: int64: epoch, example, sample, position of each row, each in [0, 2^32). The random number of a row
            is a function of (seed, key) alone.
        temperature: above 0.
        top_k: only the k most likely ids; 0: all.
        top_p: only the most likely ids that together hold this share, in (0, 1].
        min_p: only ids at least this likely relative to the most likely one, in [0, 1].
        greedy: the most likely id, whatever the key.

    Returns:
        ids_N, int64, on the device of the logits.

    Raises:
        ModelError: a row holds NaN or +inf, or nothing but −inf; names the row.
        UsageError: a setting is outside its range.

    Example:
        >>> sample(torch.tensor([[0.0, 5.0]]), seed=0, keys_N4=torch.zeros(1, 4, dtype=torch.int64)).tolist()
        [1]
    """
    if logits_NV.device.type != "cpu":
        return torch_reference.sample(
            logits_NV,
            seed=seed,
            keys_N4=keys_N4,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            greedy=greedy,
        )
    use_torch_threads()
    elements, name, vocab = rows(logits_NV)
    ids = np.empty(len(logits_NV), np.int64)
    keys = array(keys_N4, np.int64, len(logits_NV), 4)
    _native.sample_rows(elements, name, vocab, seed, keys, temperature, top_k, top_p, min_p, greedy, ids)
    return torch.from_numpy(ids)


def threshold_sample(
    logits_NV: Tensor, k: int, *, seed: int, keys_N4: Tensor, labels_N: Tensor | None = None
) -> ThresholdSample:
    """An unbiased sparse estimate of softmax(logits) on k ids: those with p ≥ τ keep p, the others get τ if drawn.

    τ solves Σ min(1, p/τ) = k; the ids below it are drawn in one systematic pass, by one random number per row.

    Args:
        logits_NV: float32, bfloat16 or float16, on any device.
        k: ids to keep, at least 1; all V where it is V or more.
        seed: 0 ≤ seed < 2^64.
        keys_N4: int64: epoch, example, sample, position of each row, each in [0, 2^32).
        labels_N: an id of each row whose log-probability is wanted, by the same sum; None: of none.

    Returns:
        Tensors on the device of the logits.

    Raises:
        ModelError: a row holds NaN or +inf, or nothing but −inf; names the row. Or a label is not below V.
        UsageError: k is below 1, or a tensor has another shape or number format.

    Example:
        >>> drawn = threshold_sample(torch.zeros(1, 8), 4, seed=0, keys_N4=torch.zeros(1, 4, dtype=torch.int64))
        >>> drawn.weights_NK.round(decimals=2).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    k = _checked_k(logits_NV, k)
    if logits_NV.device.type != "cpu":
        return torch_reference.threshold_sample(logits_NV, k, seed=seed, keys_N4=keys_N4, labels_N=labels_N)
    use_torch_threads()
    elements, name, vocab = rows(logits_NV)
    n = len(logits_NV)
    ids, weights, counts = np.empty((n, k), np.int32), np.empty((n, k), np.float32), np.empty(n, np.int32)
    tau, entropy = np.empty(n, np.float32), np.empty(n, np.float32)
    keys = array(keys_N4, np.int64, len(logits_NV), 4)
    labels, realised = _labels(labels_N, n)
    _native.threshold_sample(elements, name, vocab, k, seed, keys, ids, weights, counts, tau, entropy, labels, realised)
    kept = (ids, weights, counts, tau, entropy) + (() if labels_N is None else (realised,))
    return ThresholdSample(*(torch.from_numpy(x) for x in kept))


def _labels(labels_N: Tensor | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 labels, and where their log-probabilities go; both empty where there are none."""
    labels = np.empty(0, np.int32) if labels_N is None else array(labels_N, np.int32, n)
    return labels, np.empty(len(labels), np.float32)


def _checked_k(logits_NV: Tensor, k: int) -> int:
    if k < 1:
        raise UsageError(f"k = {k}: at least one id must be kept")
    return min(k, logits_NV.shape[1])
