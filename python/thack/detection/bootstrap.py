"""Intervals over prompts, paired across checkpoints, without the bias of a bootstrapped minimum.

Names of dimensions: E evaluations, P prompts, B resamples.

All checkpoints answer for the same prompts, so a resample draws prompts once and recomputes every curve
from them: what is common to two checkpoints cancels in their ratio.

The trap is the minimum. The lowest point of a noisy curve lies below the lowest point of the true one, so
"end over minimum" is biased upwards, and resampling adds the same bias once more: a flat, healthy curve
would seem to rise. Here the minimum is found on some prompts and read off on others (cross-fitting): the
checkpoint is chosen on all folds but one, and only the fold left out is counted at it. The choice is then
independent of the noise it is judged by, so the expected rise is at most the true one. Copies of a prompt
within a resample stay in one fold. By simulation (60 flat curves, prompts with 6 % noise of their own) such
95 % intervals hold the true rise in 100 % of cases, plain ones in 68 %; the price is a width of 1.0 to 1.5
times the plain one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thack.detection.curves import PerPrompt
from thack.schema.metrics import Floats, Reduction
from thack.schema.verdict import Interval

_CHUNK = 1 << 22  # numbers in one block of resampling weights: 32 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """What B resamples say: `rise_B` per column (end over minimum − 1), its argmin, the end and others."""

    rise_B: Floats
    lowest_B: NDArray[np.intp]  # index of the minimum within the judged evaluations
    end_B: Floats
    at_BE: Floats  # the whole curve


def canonical_order(columns: Sequence[PerPrompt]) -> NDArray[np.intp]:
    """An order of prompts that depends on their values only, so that results do not depend on file order."""
    keys = np.concatenate([np.vstack([c.nats_EP, c.tokens_EP]) for c in columns])
    return np.lexsort(keys[::-1])


def resample(
    columns: Mapping[str, PerPrompt],
    *,
    judged_E: NDArray[np.bool_],
    reduction: Reduction | None,
    resamples: int,
    folds: int,
    seed: int,
) -> dict[str, Resampled]:
    """Bootstrap every column with the same draws of prompts; `judged_E` marks evaluations after warm-up."""
    order_P = canonical_order(list(columns.values()))
    num_prompts = len(order_P)
    fold_P = np.arange(num_prompts) % min(folds, num_prompts)
    parts: dict[str, list[Resampled]] = {name: [] for name in columns}
    for counts_BP in _draws(num_prompts, resamples, seed):
        for name, column in columns.items():
            nats_EP, tokens_EP = column.nats_EP[:, order_P], column.tokens_EP[:, order_P]
            if reduction == "sequence_sum":
                tokens_EP = np.ones_like(tokens_EP)
            parts[name].append(_crossfit(counts_BP, nats_EP, tokens_EP, fold_P, judged_E))
    return {name: _join(found) for name, found in parts.items()}


def _draws(num_prompts: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each prompt is drawn, in blocks of resamples."""
    rng = np.random.Generator(np.random.Philox(seed))
    block = max(1, _CHUNK // num_prompts)
    share_P = np.full(num_prompts, 1 / num_prompts)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield rng.multinomial(num_prompts, share_P, size=size).astype(np.float64)


def _crossfit(
    counts_BP: Floats,
    nats_EP: Floats,
    tokens_EP: Floats,
    fold_P: NDArray[np.intp],
    judged_E: NDArray[np.bool_],
) -> Resampled:
    num_folds = int(fold_P.max()) + 1
    nats_FBE = np.stack([counts_BP[:, fold_P == f] @ nats_EP[:, fold_P == f].T for f in range(num_folds)])
    tokens_FBE = np.stack([counts_BP[:, fold_P == f] @ tokens_EP[:, fold_P == f].T for f in range(num_folds)])
    nats_BE, tokens_BE = nats_FBE.sum(axis=0), tokens_FBE.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        at_BE = nats_BE / tokens_BE
        judged = np.flatnonzero(judged_E)
        lowest_nats_B = np.zeros(len(counts_BP))
        lowest_tokens_B = np.zeros(len(counts_BP))
        for nats_fold_BE, tokens_fold_BE in zip(nats_FBE, tokens_FBE, strict=True):
            others_BE = (nats_BE - nats_fold_BE) / (tokens_BE - tokens_fold_BE) if num_folds > 1 else at_BE
            chosen_B1 = judged[last_argmin(others_BE[:, judged])][:, None]
            lowest_nats_B += np.take_along_axis(nats_fold_BE, chosen_B1, axis=1)[:, 0]
            lowest_tokens_B += np.take_along_axis(tokens_fold_BE, chosen_B1, axis=1)[:, 0]
        rise_B = at_BE[:, judged[-1]] / (lowest_nats_B / lowest_tokens_B) - 1
    return Resampled(rise_B=rise_B, lowest_B=last_argmin(at_BE[:, judged]), end_B=at_BE[:, judged[-1]], at_BE=at_BE)


def paired_band(
    column: PerPrompt, anchor: int, *, reduction: Reduction | None, resamples: int, confidence: float, seed: int
) -> tuple[Floats, Floats]:
    """Interval of each evaluation's ratio to evaluation `anchor`: what is common to both cancels."""
    tokens_EP = np.ones_like(column.tokens_EP) if reduction == "sequence_sum" else column.tokens_EP
    blocks = _draws(column.nats_EP.shape[1], resamples, seed)
    at_BE = np.concatenate([(counts_BP @ column.nats_EP.T) / (counts_BP @ tokens_EP.T) for counts_BP in blocks])
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low_E, high_E = np.quantile(at_BE / at_BE[:, anchor : anchor + 1], tails, axis=0)
    return low_E, high_E


def last_argmin(values_BE: Floats) -> NDArray[np.intp]:
    """The last of equal minima per row, NaN counting as high: a plateau ends where the rise begins."""
    clean_BE = np.where(np.isfinite(values_BE), values_BE, np.inf)
    last: NDArray[np.intp] = clean_BE.shape[-1] - 1 - np.argmin(clean_BE[..., ::-1], axis=-1)
    return last


def _join(parts: Sequence[Resampled]) -> Resampled:
    return Resampled(
        rise_B=np.concatenate([part.rise_B for part in parts]),
        lowest_B=np.concatenate([part.lowest_B for part in parts]),
        end_B=np.concatenate([part.end_B for part in parts]),
        at_BE=np.concatenate([part.at_BE for part in parts]),
    )


def percentile_interval(values_B: Floats, confidence: float) -> Interval | None:
    """The central `confidence` share of what is finite."""
    finite_B = values_B[np.isfinite(values_B)]
    if len(finite_B) < 20:
        return None
    low, high = np.quantile(finite_B, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
