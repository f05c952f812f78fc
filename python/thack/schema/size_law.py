"""Golden on fixed responses by the sizes of data and student: what was seen of each run, and a power law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from thack.schema.verdict import Interval

Covariate = Literal["tokens", "responses_per_prompt", "parameters"]
Quantity = Literal["passes until golden turns", "rise of golden"]

NAMES: Mapping[Covariate, str] = {
    "tokens": "response tokens, each counted once",
    "responses_per_prompt": "responses per prompt",
    "parameters": "weights of the student",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedRun:
    """One run on fixed responses, and the bounds between which a quantity of it lies.

    Args:
        task: What its data are.
        tokens: Response tokens of the data, each counted once.
        responses_per_prompt: On average.
        parameters: Weights of the student that are trained.
        low: The quantity is at least this; 0: no bound.
        high: At most this; None: no bound.
    """

    task: str
    tokens: int
    responses_per_prompt: float
    parameters: int
    low: float
    high: float | None

    @property
    def is_bounded(self) -> bool:
        """Whether both bounds are known."""
        return self.low > 0 and self.high is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """How well the runs of one size are foretold by the others.

    Args:
        covariate: Which size.
        value: The size that was left out: the geometric mean of its runs, which lie within a factor of two.
        num_runs: That have it.
        factor: exp of the root mean square of log(seen / expected): 1 is exact.
    """

    covariate: Covariate
    value: float
    num_runs: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLaw:
    """quantity = exp(intercept of the task) · Π covariate^exponent, with a log-normal spread.

    Args:
        quantity: What it is a law of.
        intercepts: By task.
        exponents: By covariate; one that did not vary is not there.
        intervals: 95 %, of the exponents, over resampled runs.
        ranges: Least and greatest value of each covariate that was seen, constant ones included.
        spread: Standard deviation of log(quantity) around the law.
        left_out: How well sizes are foretold that were left out of the fit.
        num_runs: That the law rests on.
        num_open: Of them, those in which the quantity is bounded from one side alone.
        num_undecided: Runs that are left out, since whether golden rises is inconclusive.
        batch_size: Sequences per step of all runs: what counts may be steps, not passes.
        learning_rate: The highest one of all runs.
    """

    quantity: Quantity
    intercepts: Mapping[str, float]
    exponents: Mapping[Covariate, float]
    intervals: Mapping[Covariate, Interval]
    ranges: Mapping[Covariate, Interval]
    spread: float
    left_out: tuple[LeftOut, ...]
    num_runs: int
    num_open: int
    num_undecided: int
    batch_size: int
    learning_rate: float
