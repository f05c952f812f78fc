"""A mean over seeds with its interval, and claims as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from thack.detection.statistics import student_quantile
from thack.reporting.csv_text import csv_text
from thack.schema.experiment import ClaimResult, Effect

_CSV_HEAD = (
    *("figure", "claim", "measure", "unit", "should_be_above", "should_be_below"),
    *("mean", "low", "high", "seeds", "answer", "reason"),
)


def effect_of(by_seed: Mapping[int, float], confidence: float = 0.95) -> Effect:
    """The mean of independent seeds, with its interval: mean ± t · s / √n.

    Args:
        by_seed: A number for each seed, at least one.
        confidence: Of the interval, in (0, 1).

    Example:
        >>> found = effect_of({0: 1.0, 1: 2.0, 2: 3.0})
        >>> found.mean, round(found.low, 3), round(found.high, 3)
        (2.0, -0.484, 4.484)
    """
    values = np.array(list(by_seed.values()))
    mean, low, high = float(values.mean()), None, None
    if len(values) > 1:
        half = _student((1 + confidence) / 2, len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
        low, high = mean - half, mean + half
    return Effect(seeds=tuple(by_seed), values=tuple(by_seed.values()), mean=mean, low=low, high=high)


@cache
def _student(probability: float, freedom: int) -> float:
    """Found by bisection: the same few are asked for again and again."""
    return student_quantile(probability, freedom)


def claims_csv(found: Sequence[ClaimResult]) -> str:
    """One row per claim; effects in their own unit, shares as they are."""
    rows = []
    for claim in found:
        effect = claim.effect
        bounds = [claim.above, claim.below, effect.mean, effect.low, effect.high]
        head = [claim.figure, claim.text, claim.measure, claim.unit]
        rows.append([*head, *bounds, len(effect.values), claim.answer, claim.reason])
    return csv_text(_CSV_HEAD, rows)
