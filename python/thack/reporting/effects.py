"""Numbers per seed, their mean with its interval, and what that says of a claim.

Each claim is a number per seed, paired where two arms are compared, and a side of a bound on which it should lie.
It *holds* where the whole 95 % interval of the mean over seeds (Student's t) lies on that side, *does not hold*
where all of it lies on the other, and is *inconclusive* between, or with one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from thack.detection.power_law import student_quantile
from thack.reporting.csv_text import csv_text
from thack.reporting.grid import GridArm
from thack.reporting.inputs import JudgedRun

Answer = Literal["holds", "does not hold", "inconclusive"]
RISE = 0.03  # the verdict's margin: controls rose by up to 2.4 %
_CONFIDENCE = 0.95
_CSV_HEAD = (
    *("figure", "claim", "measure", "unit", "should_be_above", "should_be_below"),
    *("mean", "low", "high", "seeds", "answer"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A mean over seeds with its interval."""

    by_seed: Mapping[int, float]
    mean: float
    low: float | None  # None: one seed has no interval
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence of the paper, and the number that decides it."""

    figure: str
    text: str
    measure: str  # what the number is
    unit: Literal["%", "points", "nats", "runs"]
    low: float  # where the number should lie; ±inf where there is no bound
    high: float
    effect: Effect

    @property
    def answer(self) -> Answer:
        low, high = self.effect.low, self.effect.high
        if low is None or high is None:
            return "inconclusive"
        if self.low < low and high < self.high:
            return "holds"
        return "does not hold" if high < self.low or low > self.high else "inconclusive"


def effect_of(by_seed: Mapping[int, float], confidence: float = _CONFIDENCE) -> Effect:
    """Mean of independent seeds, and t-interval: mean ± t · s / √n."""
    values = np.array(list(by_seed.values()))
    mean = float(values.mean())
    if len(values) < 2:
        return Effect(by_seed=dict(by_seed), mean=mean, low=None, high=None)
    half = _student((1 + confidence) / 2, len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    return Effect(by_seed=dict(by_seed), mean=mean, low=mean - half, high=mean + half)


@cache
def _student(probability: float, freedom: int) -> float:
    """Found by bisection: the same few are asked for again and again."""
    return student_quantile(probability, freedom)


def above(
    figure: str, text: str, measure: str, unit: Literal["%"], bound: float, arm: GridArm | None
) -> Iterator[Claim]:
    yield from one(figure, text, measure, unit, (bound, np.inf), rises(arm))


def one(
    figure: str,
    text: str,
    measure: str,
    unit: Literal["%", "points", "nats", "runs"],
    bounds: tuple[float, float],
    by_seed: Mapping[int, float],
) -> Iterator[Claim]:
    """Nothing where no seed has the number."""
    if by_seed:
        low, high = bounds
        yield Claim(figure=figure, text=text, measure=measure, unit=unit, low=low, high=high, effect=effect_of(by_seed))


def values(arm: GridArm | None, number: Callable[[JudgedRun], float | None]) -> dict[int, float]:
    if arm is None:
        return {}
    found = {run.seed: number(run) for run in arm.arm.runs if run.seed is not None}
    return {seed: value for seed, value in found.items() if value is not None}


def rises(arm: GridArm | None) -> dict[int, float]:
    return values(arm, lambda run: run.verdict.golden.rise if run.verdict.golden else None)


def alarms(arm: GridArm | None) -> dict[int, float]:
    return values(arm, lambda run: float(run.suspicion.alarm_step is not None))


def golden_end(run: JudgedRun) -> float | None:
    return run.verdict.golden.end if run.verdict.golden else None


def proxy_end(run: JudgedRun) -> float | None:
    return run.verdict.proxy.end if run.verdict.proxy else None


def minus(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def ratio(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {seed: a[seed] / b[seed] - 1 for seed in a if seed in b and b[seed] > 0}


def claims_csv(found: Sequence[Claim]) -> str:
    """One row per claim; effects in their own unit, shares as they are."""
    rows = []
    for claim in found:
        effect = claim.effect
        numbers = [claim.low, claim.high, effect.mean, effect.low, effect.high]
        shown = [float(n) if n is not None and np.isfinite(n) else None for n in numbers]
        rows.append([claim.figure, claim.text, claim.measure, claim.unit, *shown, len(effect.by_seed), claim.answer])
    return csv_text(_CSV_HEAD, rows)
