"""A law of onset: after how many passes over fixed responses golden turns, by the size of data and student.

    log passes = intercept of the task + Σ exponent · log covariate + noise

An onset is known between two evaluations only, and of a run in which golden never turned only from below. The fit is
the maximum likelihood of normal noise under these bounds, by expectation and maximisation: leaving out the runs that
had not turned would shorten every forecast. R runs, F columns of the law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from thack.detection.statistics import percentile_interval
from thack.errors import UsageError
from thack.schema.metrics import Floats
from thack.schema.onset import Covariate, LeftOut, OnsetForecast, OnsetLaw, OnsetRun

COVARIATES: tuple[Covariate, ...] = get_args(Covariate)
_ITERATIONS, _TOLERANCE = 500, 1e-5  # of the weights and the spread, all in nats
_LEAST_SPREAD = 1e-3  # where the law passes through every interval, the likelihood grows without end
_RESAMPLES = 200
_CONFIDENCE = 0.95
_NORMAL = 1.959963984540054  # standard deviations on either side of a 95 % interval
_FARTHEST = 2.0  # a forecast says so where a covariate is further outside of what was seen, as a factor


def fit_onset_law(runs: Sequence[OnsetRun], *, seed: int = 0) -> OnsetLaw | None:
    """The law of these runs.

    Args:
        runs: On fixed responses; of any tasks.
        seed: Of the resamples.

    Returns:
        None where golden turned in fewer runs than the law has parameters, plus two.
    """
    covariates = [name for name in COVARIATES if len({getattr(run, name) for run in runs}) > 1]
    tasks = sorted({run.task for run in runs})
    turned = [run for run in runs if run.before is not None]
    if len(turned) < len(covariates) + len(tasks) + 2:
        return None
    data = _Data.of(runs, covariates, tasks)
    fit = data.fit()
    weights = fit.weights_F.tolist()
    intercepts = dict(zip(tasks, weights[: len(tasks)], strict=True))
    return OnsetLaw(
        intercepts=intercepts,
        exponents=dict(zip(covariates, weights[len(tasks) :], strict=True)),
        intervals=_intervals(data, fit, covariates, seed),
        ranges={name: (min(values), max(values)) for name in COVARIATES if (values := _values(runs, name))},
        spread=fit.spread,
        spread_of_tasks=float(np.std(list(intercepts.values()), ddof=1)) if len(tasks) > 1 else None,
        left_out=tuple(_left_out(runs, covariates, tasks)),
        num_runs=len(runs),
        num_without=len(runs) - len(turned),
    )


def onset_forecast(
    law: OnsetLaw, *, tokens: float, responses_per_prompt: float, parameters: float, task: str | None = None
) -> OnsetForecast:
    """After how many passes golden is expected to turn.

    Args:
        law: Of other runs.
        tokens: Response tokens of the data, each counted once.
        responses_per_prompt: On average.
        parameters: Weights of the student that are trained.
        task: One that the law knows; None: another one, which widens the interval by how much tasks differ.

    Raises:
        UsageError: the law does not know the task, or a size is not above 0.
    """
    given: dict[Covariate, float] = {
        "tokens": tokens,
        "responses_per_prompt": responses_per_prompt,
        "parameters": parameters,
    }
    if not all(value > 0 for value in given.values()):
        raise UsageError("a forecast needs tokens, responses_per_prompt and parameters above 0", details=[str(given)])
    if task is not None and task not in law.intercepts:
        raise UsageError(
            f"the law knows no task {task!r}", hint=f"it knows {', '.join(law.intercepts)}; or leave it out"
        )
    known = list(law.intercepts.values())
    middle = law.intercepts[task] if task is not None else sum(known) / len(known)
    middle += sum(exponent * math.log(given[name]) for name, exponent in law.exponents.items())
    between = (law.spread_of_tasks or 0.0) if task is None else 0.0
    # The spread within the fit, or how far sizes were missed that it had not seen: whichever is larger.
    missed = [math.log(one.factor) for one in law.left_out]
    within = max(law.spread, math.sqrt(sum(m * m for m in missed) / len(missed)) if missed else 0.0)
    half = _NORMAL * math.hypot(within, between)
    outside = {name: _excess(value, law.ranges[name]) for name, value in given.items() if name in law.ranges}
    return OnsetForecast(
        passes=math.exp(middle),
        interval=(math.exp(middle - half), math.exp(middle + half)),
        outside={name: factor for name, factor in outside.items() if factor > _FARTHEST},
    )


def _excess(value: float, seen: tuple[float, float]) -> float:
    """The factor by which a value lies outside of what was seen; at most 1 inside."""
    return max(value / seen[1], seen[0] / value)


def _values(runs: Sequence[OnsetRun], name: Covariate) -> list[float]:
    return [float(getattr(run, name)) for run in runs]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """x_RF: one column for each task and each covariate; bounds of log passes, infinite where there is none."""

    x_RF: Floats
    low_R: Floats
    high_R: Floats

    @classmethod
    def of(cls, runs: Sequence[OnsetRun], covariates: Sequence[Covariate], tasks: Sequence[str]) -> _Data:
        """Those of some runs."""
        logs = [[math.log(getattr(run, name)) for name in covariates] for run in runs]
        own = [[float(run.task == task) for task in tasks] for run in runs]
        return cls(
            x_RF=np.hstack([np.array(own), np.array(logs).reshape(len(runs), -1)]),
            low_R=np.array([math.log(run.after) if run.after > 0 else -math.inf for run in runs]),
            high_R=np.array([math.inf if run.before is None else math.log(run.before) for run in runs]),
        )

    def rows(self, chosen: NDArray[np.intp]) -> _Data:
        """Some of the runs, which may repeat."""
        return _Data(x_RF=self.x_RF[chosen], low_R=self.low_R[chosen], high_R=self.high_R[chosen])

    def middle_R(self) -> Floats:
        """One number for each run: the middle of its bounds, or the one that it has."""
        both_R = np.isfinite(self.low_R) & np.isfinite(self.high_R)
        one_R = np.where(np.isfinite(self.low_R), self.low_R, self.high_R)
        with np.errstate(invalid="ignore"):
            middle_R: Floats = np.where(both_R, (self.low_R + self.high_R) / 2, one_R)
        return middle_R

    def fit(self, start: _Fit | None = None) -> _Fit:
        """Weights of the columns and the spread; from those of other runs, which saves most of the way."""
        inverse_FR = np.linalg.pinv(self.x_RF)
        if start is None:
            weights_F = inverse_FR @ self.middle_R()
            start = _Fit(weights_F=weights_F, spread=max(float(np.std(self.middle_R() - self.x_RF @ weights_F)), 0.1))
        weights_F, spread = start.weights_F, start.spread
        for _ in range(_ITERATIONS):
            before_F, before = weights_F, spread
            mean_R, variance_R = _within(self.x_RF @ weights_F, spread, self.low_R, self.high_R)
            weights_F = inverse_FR @ mean_R
            spread = math.sqrt(float(np.mean((mean_R - self.x_RF @ weights_F) ** 2 + variance_R)))
            spread = max(spread, _LEAST_SPREAD)
            if max(abs(spread - before), float(np.abs(weights_F - before_F).max())) < _TOLERANCE:
                break
        return _Fit(weights_F=weights_F, spread=spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    weights_F: Floats
    spread: float


def _within(mean_R: Floats, spread: float, low_R: Floats, high_R: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of normal numbers that are known to lie between bounds."""
    low_R, high_R = (low_R - mean_R) / spread, (high_R - mean_R) / spread
    share_R = np.maximum(_normal(high_R) - _normal(low_R), 1e-12)
    at_low_R, at_high_R = _density(low_R), _density(high_R)
    shift_R = (at_low_R - at_high_R) / share_R
    found_R = np.clip(mean_R + spread * shift_R, mean_R + spread * low_R, mean_R + spread * high_R)
    ends_R = np.where(np.isfinite(low_R), low_R, 0) * at_low_R - np.where(np.isfinite(high_R), high_R, 0) * at_high_R
    return found_R, spread**2 * np.clip(1 + ends_R / share_R - shift_R**2, 0, 1)


def _normal(x_R: Floats) -> Floats:
    return np.array([0.5 * math.erfc(-x) for x in (x_R / math.sqrt(2)).tolist()])


def _density(x_R: Floats) -> Floats:
    found: Floats = np.exp(-0.5 * np.minimum(np.abs(x_R), 40.0) ** 2) / math.sqrt(2 * math.pi)
    return np.where(np.isfinite(x_R), found, 0)


def _intervals(
    data: _Data, whole: _Fit, covariates: Sequence[Covariate], seed: int
) -> Mapping[Covariate, tuple[float, float]]:
    """Of each exponent, over resampled runs; resamples that lack a task or a size are drawn again by the next."""
    rng, num_runs = np.random.default_rng(seed), len(data.low_R)
    found = []
    for _ in range(_RESAMPLES):
        part = data.rows(rng.integers(num_runs, size=num_runs))
        if np.linalg.matrix_rank(part.x_RF) == data.x_RF.shape[1]:
            found.append(part.fit(whole).weights_F)
    if not found:
        return {}
    weights_BF = np.array(found)
    first = data.x_RF.shape[1] - len(covariates)
    each = {name: percentile_interval(weights_BF[:, first + i], _CONFIDENCE) for i, name in enumerate(covariates)}
    return {name: interval for name, interval in each.items() if interval is not None}


def _left_out(runs: Sequence[OnsetRun], covariates: Sequence[Covariate], tasks: Sequence[str]) -> list[LeftOut]:
    """Each size of each covariate foretold by the other sizes, on the runs in which golden turned."""
    found = []
    for name in covariates:
        for value in sorted(set(_values(runs, name))):
            rest = [run for run in runs if getattr(run, name) != value]
            turned = [run for run in runs if getattr(run, name) == value and run.before is not None]
            known = _Data.of(rest, covariates, tasks)
            if not turned or np.linalg.matrix_rank(known.x_RF) < known.x_RF.shape[1]:
                continue
            wanted = _Data.of(turned, covariates, tasks)
            missed_R = wanted.middle_R() - wanted.x_RF @ known.fit().weights_F
            factor = math.exp(math.sqrt(float(np.mean(missed_R**2))))
            found.append(LeftOut(covariate=name, value=value, num_runs=len(turned), factor=factor))
    return found
