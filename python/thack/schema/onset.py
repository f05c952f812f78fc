"""When golden turns on fixed responses: what was seen of each run, and a law of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from thack.schema import document
from thack.schema.verdict import Interval

Covariate = Literal["tokens", "responses_per_prompt", "parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnsetRun:
    """One run on fixed responses.

    Args:
        task: What its data are.
        tokens: Response tokens of the data, each counted once.
        responses_per_prompt: On average.
        parameters: Weights of the student that are trained.
        after: Passes over the data after which golden still fell; 0 where its first evaluation was the lowest.
        before: Passes before which it had turned; None where it had not, by the end of the run.
    """

    task: str
    tokens: int
    responses_per_prompt: float
    parameters: int
    after: float
    before: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """How well the runs of one size are foretold by the others.

    Args:
        covariate: Which size.
        value: The size that was left out.
        num_runs: That have it.
        factor: exp of the root mean square of log(seen passes / expected passes): 1 is exact.
    """

    covariate: Covariate
    value: float
    num_runs: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OnsetLaw:
    """passes = exp(intercept of the task) · Π covariate^exponent, with a log-normal spread.

    Args:
        intercepts: By task.
        exponents: By covariate; one that did not vary is not there.
        intervals: 95 %, of the exponents, over resampled runs.
        ranges: Least and greatest value of each covariate that was seen, constant ones included.
        spread: Standard deviation of log(passes) around the law.
        spread_of_tasks: Of the intercepts; None of one task.
        left_out: How well sizes are foretold that were left out of the fit.
        num_runs: That the law rests on.
        num_without: Of them, those in which golden had not turned by the end.
        num_undecided: Runs that are left out, since whether golden turned is inconclusive.
    """

    SCHEMA: ClassVar[int] = 1

    intercepts: Mapping[str, float]
    exponents: Mapping[Covariate, float]
    intervals: Mapping[Covariate, Interval]
    ranges: Mapping[Covariate, Interval]
    spread: float
    spread_of_tasks: float | None
    left_out: tuple[LeftOut, ...]
    num_runs: int
    num_without: int
    num_undecided: int = 0

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)

    @classmethod
    def parse(cls, raw: object, what: str) -> OnsetLaw:
        """The inverse of `dump`.

        Raises:
            DataError: `raw` is not a law of this version.
        """
        return document.parse(cls, raw, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnsetForecast:
    """Passes over fixed responses after which golden is expected to turn.

    Args:
        passes: The middle.
        interval: 95 %, of one run.
        outside: Covariates that lie more than a factor of two outside of what was seen, with by how much.
    """

    passes: float
    interval: Interval
    outside: Mapping[Covariate, float]
