"""Intervals over prompts, paired across checkpoints, and the quantiles of Student's t.

Names of dimensions: E evaluations, P prompts, B resamples, F folds.

All checkpoints answer the same prompts. A resample therefore draws prompts once and recomputes every curve from them:
what is common to two checkpoints cancels in their ratio.

The lowest point of a noisy curve is below the lowest point of the true one, so "end over minimum" is biased upwards.
Resampling adds the same bias once more: a flat, healthy curve would seem to rise. `resample` therefore finds the
minimum on some prompts and reads it from others (cross-fitting): the checkpoint is chosen on all folds but one, and
only the fold left out is counted at it. The choice is independent of the noise it is judged by, so the expected rise is
at most the true one. Copies of a prompt within a resample stay in one fold. By simulation (60 flat curves, prompts with
6 % noise of their own) such 95 % intervals contain the true rise in 100 % of cases, plain ones in 68 %; they are 1.0 to
1.5 times as wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from thack.schema.metric_rows import PromptSums, counted
from thack.schema.metrics import Floats, Reduction
from thack.schema.verdict import Interval

_CHUNK = 1 << 22  # numbers in one block of resampling weights: 32 MiB
_LEAST_VALUES = 20  # of a percentile interval


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCurves:
    """One metric, prompt by prompt: nats summed over the response, the response's tokens, and its bytes if counted."""

    nats_EP: Floats
    tokens_EP: Floats
    bytes_EP: Floats | None = None
    reduction: Reduction | None = None  # of the curve; None: per token

    @property
    def counts_EP(self) -> Floats:
        """What the nats are divided by: tokens, bytes, or one per response."""
        return counted(self.tokens_EP, self.bytes_EP, self.reduction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """One curve in B resamples of the prompts."""

    rise_B: Floats  # end over minimum − 1, the minimum cross-fitted
    lowest_B: NDArray[np.intp]  # index of the minimum within the judged evaluations
    end_B: Floats
    at_BE: Floats  # the whole curve


def prompt_weights(rng: np.random.Generator, num_prompts: int, count: int) -> Floats:
    """weights_BP: how often each of P prompts was drawn in each of `count` resamples of size P."""
    return rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=count).astype(np.float64)


def reduced_interval(sums: PromptSums, reduction: Reduction, weights_BP: Floats, confidence: float) -> Interval:
    """Percentile interval of Σ nats / Σ of what the reduction counts; resamples in which that is 0 are left out."""
    counts_B = weights_BP @ sums.counts_P(reduction)
    seen_B = counts_B > 0
    low, high = np.quantile((weights_BP @ sums.nats_P)[seen_B] / counts_B[seen_B], _tails(confidence))
    return float(low), float(high)


def resample(
    curves: Mapping[str, PromptCurves],
    *,
    judged_E: NDArray[np.bool_],
    resamples: int,
    folds: int,
    seed: int,
) -> dict[str, Resampled]:
    """Bootstrap every curve with the same draws of prompts.

    Args:
        curves: By any name, all of the same prompts and evaluations.
        judged_E: The evaluations after the warm-up.
        resamples: B.
        folds: F, of the cross-fitting.
        seed: Of the draws.
    """
    order_P = _canonical_order(list(curves.values()))
    num_prompts = len(order_P)
    fold_P = np.arange(num_prompts) % min(folds, num_prompts)
    parts: dict[str, list[Resampled]] = {name: [] for name in curves}
    for weights_BP in _blocks(num_prompts, resamples, seed):
        for name, curve in curves.items():
            nats_EP, counts_EP = curve.nats_EP[:, order_P], curve.counts_EP[:, order_P]
            parts[name].append(_crossfit(weights_BP, nats_EP, counts_EP, fold_P, judged_E))
    return {name: _join(found) for name, found in parts.items()}


def paired_band(
    curve: PromptCurves, anchor: int, *, resamples: int, confidence: float, seed: int
) -> tuple[Floats, Floats]:
    """Interval of each evaluation's ratio to evaluation `anchor`: what is common to both cancels."""
    counts_EP = curve.counts_EP
    blocks = _blocks(curve.nats_EP.shape[1], resamples, seed)
    at_BE = np.concatenate([(weights_BP @ curve.nats_EP.T) / (weights_BP @ counts_EP.T) for weights_BP in blocks])
    low_E, high_E = np.quantile(at_BE / at_BE[:, anchor : anchor + 1], _tails(confidence), axis=0)
    return low_E, high_E


def resampled_means(nats_MP: Floats, counts_P: Floats, *, resamples: int, seed: int) -> Floats:
    """means_BM: Σ nats / Σ counts of M metrics, in the same resamples of P prompts."""
    blocks = _blocks(len(counts_P), resamples, seed)
    return np.concatenate([(w_BP @ nats_MP.T) / (w_BP @ counts_P)[:, None] for w_BP in blocks])


def percentile_interval(values_B: Floats, confidence: float) -> Interval | None:
    """The central `confidence` share of what is finite; None of fewer than 20 values."""
    finite_B = values_B[np.isfinite(values_B)]
    if len(finite_B) < _LEAST_VALUES:
        return None
    low, high = np.quantile(finite_B, _tails(confidence))
    return float(low), float(high)


def nearest_interval(values_B: NDArray[np.intp], confidence: float) -> tuple[int, int]:
    """The same of whole numbers, both ends among the values."""
    low, high = np.quantile(values_B, _tails(confidence), method="nearest")
    return int(low), int(high)


def last_argmin(values_BE: Floats) -> NDArray[np.intp]:
    """The last of equal minima per row, NaN counting as high: a plateau ends where the rise begins."""
    clean_BE = np.where(np.isfinite(values_BE), values_BE, np.inf)
    last: NDArray[np.intp] = clean_BE.shape[-1] - 1 - np.argmin(clean_BE[..., ::-1], axis=-1)
    return last


def _tails(confidence: float) -> list[float]:
    return [(1 - confidence) / 2, (1 + confidence) / 2]


def _canonical_order(curves: Sequence[PromptCurves]) -> NDArray[np.intp]:
    """An order of prompts that depends on their values only, so that results do not depend on file order."""
    keys = np.concatenate([np.vstack([curve.nats_EP, curve.tokens_EP]) for curve in curves])
    return np.lexsort(keys[::-1])


def _blocks(num_prompts: int, resamples: int, seed: int) -> Iterator[Floats]:
    """`prompt_weights` in blocks of resamples that fit in memory."""
    rng = np.random.Generator(np.random.Philox(seed))
    block = max(1, _CHUNK // num_prompts)
    for start in range(0, resamples, block):
        yield prompt_weights(rng, num_prompts, min(block, resamples - start))


def _crossfit(
    weights_BP: Floats,
    nats_EP: Floats,
    counts_EP: Floats,
    fold_P: NDArray[np.intp],
    judged_E: NDArray[np.bool_],
) -> Resampled:
    num_folds = int(fold_P.max()) + 1
    nats_FBE = np.stack([weights_BP[:, fold_P == f] @ nats_EP[:, fold_P == f].T for f in range(num_folds)])
    counts_FBE = np.stack([weights_BP[:, fold_P == f] @ counts_EP[:, fold_P == f].T for f in range(num_folds)])
    nats_BE, counts_BE = nats_FBE.sum(axis=0), counts_FBE.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        at_BE = nats_BE / counts_BE
        judged = np.flatnonzero(judged_E)
        lowest_nats_B = np.zeros(len(weights_BP))
        lowest_counts_B = np.zeros(len(weights_BP))
        for nats_fold_BE, counts_fold_BE in zip(nats_FBE, counts_FBE, strict=True):
            others_BE = (nats_BE - nats_fold_BE) / (counts_BE - counts_fold_BE) if num_folds > 1 else at_BE
            chosen_B1 = judged[last_argmin(others_BE[:, judged])][:, None]
            lowest_nats_B += np.take_along_axis(nats_fold_BE, chosen_B1, axis=1)[:, 0]
            lowest_counts_B += np.take_along_axis(counts_fold_BE, chosen_B1, axis=1)[:, 0]
        rise_B = at_BE[:, judged[-1]] / (lowest_nats_B / lowest_counts_B) - 1
    return Resampled(rise_B=rise_B, lowest_B=last_argmin(at_BE[:, judged]), end_B=at_BE[:, judged[-1]], at_BE=at_BE)


def _join(parts: Sequence[Resampled]) -> Resampled:
    return Resampled(
        rise_B=np.concatenate([part.rise_B for part in parts]),
        lowest_B=np.concatenate([part.lowest_B for part in parts]),
        end_B=np.concatenate([part.end_B for part in parts]),
        at_BE=np.concatenate([part.at_BE for part in parts]),
    )


@cache
def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, by bisection on its distribution function.

    Args:
        probability: In [0.5, 1).
        freedom: Degrees of freedom, 1 or more.
    """
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: int) -> float:
    """½ + ∫₀ᵗ density, by Gauss–Legendre after x = √n·tan θ, which makes the integrand cosⁿ⁻¹ θ."""
    end = math.atan(t / math.sqrt(freedom))
    node, weight = _legendre()
    theta = (node + 1) * end / 2
    integral = float(np.sum(weight * np.cos(theta) ** (freedom - 1))) * end / 2
    norm = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 + norm * integral


@cache
def _legendre() -> tuple[Floats, Floats]:
    return np.polynomial.legendre.leggauss(48)
