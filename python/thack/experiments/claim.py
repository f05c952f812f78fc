"""One claim: a number for each seed, the side of a bound on which it should be, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from thack.experiments.arms import FinishedArm
from thack.reporting.effects import effect_of
from thack.schema.experiment import Answer, ClaimResult, Effect, RunOutcome, Unit

RISE = 0.03  # the verdict's margin: controls rose by up to 2.4 %
BySeed = Mapping[int, float]


def claim(
    figure: str,
    text: str,
    measure: str,
    unit: Unit,
    by_seed: BySeed,
    *,
    above: float | None = None,
    below: float | None = None,
    reason: str = "",
) -> Iterator[ClaimResult]:
    """The claim that a number is above one bound, or below one, or between two; nothing if no seed has the number."""
    if by_seed:
        effect = effect_of(by_seed)
        yield ClaimResult(
            figure=figure,
            text=text,
            measure=measure,
            unit=unit,
            above=above,
            below=below,
            effect=effect,
            answer=answer(effect, above=above, below=below),
            reason=reason,
        )


def answer(effect: Effect, *, above: float | None, below: float | None) -> Answer:
    """Whether the whole interval is inside the bounds, or all of it outside."""
    if effect.low is None or effect.high is None:
        return "inconclusive"
    if (above is None or above < effect.low) and (below is None or effect.high < below):
        return "holds"
    outside = (above is not None and effect.high < above) or (below is not None and effect.low > below)
    return "does not hold" if outside else "inconclusive"


def outcomes(arm: FinishedArm | None, number: Callable[[RunOutcome], float | None]) -> dict[int, float]:
    """One number of every seed that has it."""
    found = {seed: number(outcome) for seed, outcome in arm.outcomes.items()} if arm else {}
    return {seed: value for seed, value in found.items() if value is not None}


def rises(arm: FinishedArm | None) -> dict[int, float]:
    """Golden's rise."""
    return outcomes(arm, lambda one: one.rise)


def alarms(arm: FinishedArm | None) -> dict[int, float]:
    """1 where the deciding detector raised an alarm, 0 where it did not."""
    return outcomes(arm, lambda one: float(one.alarm))


def golden_ends(arm: FinishedArm | None) -> dict[int, float]:
    """Golden at the end."""
    return outcomes(arm, lambda one: one.golden_end)


def minus(a: BySeed, b: BySeed) -> dict[int, float]:
    """Paired differences, of the seeds that both have."""
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def ratio(a: BySeed, b: BySeed) -> dict[int, float]:
    """Paired ratios minus 1, of the seeds that both have."""
    return {seed: a[seed] / b[seed] - 1 for seed in a if seed in b and b[seed] > 0}
