"""How many paired seeds an interval of the wanted width needs, from the spread of the seeds that have run.

An interval over n seeds is the mean ± t(n − 1) · s / √n. The spread s of few seeds is itself uncertain, so two numbers
are given: with s as it was seen, and with the upper end of its one-sided 80 % interval,
s · √((n − 1) / χ²(0.2; n − 1)).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev

from thack.config.experiment import ExperimentSettings
from thack.detection import Margins, verdict, verdict_without_oracle
from thack.detection.statistics import student_quantile
from thack.experiments.arms import FinishedArms
from thack.experiments.cells import base_arm, chosen_figures
from thack.experiments.claims import claims
from thack.experiments.outcome import run_outcome
from thack.experiments.plan import PlannedRun
from thack.schema.experiment import CellResult, ClaimResult

_MOST_SEEDS = 1000
_CONFIDENCE = 0.95
_UNLUCKY = 0.2  # probability of a spread as small as the one that was seen, or smaller
_FEW_RESAMPLES = 100  # of intervals over prompts, which are not used here


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsNeeded:
    """What one claim needs. Shares are stored as they are: 0.02 for 2 % or 2 points."""

    figure: str
    text: str
    unit: str
    num_seeds: int  # that have run
    spread: float | None  # their standard deviation, of paired differences where two arms are compared; None: one seed
    needed: int | None  # None: more than a thousand, or no spread
    at_most: int | None  # with the upper end of the spread


def seeds_needed(settings: ExperimentSettings, planned: Sequence[PlannedRun]) -> tuple[SeedsNeeded, ...]:
    """Of every claim that is a share, as far as its runs are complete.

    Args:
        settings: With the wanted half of the interval, `half_width`.
        planned: The cells of the experiment.
    """
    arms = FinishedArms.of(base_arm(settings), _finished(planned))
    return tuple(
        _needed(claim, settings.half_width)
        for claim in claims(arms, chosen_figures(settings))
        if claim.unit in ("%", "points")
    )


def _finished(planned: Sequence[PlannedRun]) -> Iterator[CellResult]:
    for one in planned:
        if one.run.is_complete:
            curves = one.curves()
            alarm = verdict_without_oracle(curves).alarm_step is not None
            yield CellResult(
                cell=one.number,
                path=str(one.run.path),
                arm=one.name,
                seed=one.cell.seed,
                figures=one.cell.figures,
                axes=one.cell.arm,
                state="finished",
                outcome=run_outcome(verdict(curves, Margins(resamples=_FEW_RESAMPLES)), alarm=alarm),
            )


def _needed(claim: ClaimResult, half_width: float) -> SeedsNeeded:
    values = claim.effect.values
    spread = stdev(values) if len(values) > 1 else None
    return SeedsNeeded(
        figure=claim.figure,
        text=claim.text,
        unit=claim.unit,
        num_seeds=len(values),
        spread=spread,
        needed=None if spread is None else seeds_for(spread, half_width),
        at_most=None if spread is None else seeds_for(upper_spread(spread, len(values)), half_width),
    )


def seeds_for(spread: float, half_width: float) -> int | None:
    """The least number n ≥ 2 of seeds with t(n − 1) · spread / √n ≤ half_width; None above a thousand.

    Example:
        >>> seeds_for(0.01, 0.02)
        4
    """
    counts = range(2, _MOST_SEEDS + 1)
    found = bisect_left(counts, -half_width, key=lambda n: -_half(spread, n))  # more seeds make it narrower
    return None if found == len(counts) else counts[found]


def _half(spread: float, count: int) -> float:
    return student_quantile((1 + _CONFIDENCE) / 2, count - 1) * spread / math.sqrt(count)


def upper_spread(spread: float, count: int) -> float:
    """The upper end of the one-sided 80 % interval of a standard deviation that `count` normal values showed.

    The quantile of χ² is Wilson and Hilferty's: within 1 % from two degrees of freedom on, 14 % too small for one.
    """
    freedom = count - 1
    part = 2 / (9 * freedom)
    quantile = freedom * (1 - part + NormalDist().inv_cdf(_UNLUCKY) * math.sqrt(part)) ** 3
    return spread * math.sqrt(freedom / quantile)
