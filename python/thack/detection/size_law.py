"""Power laws of golden's turn and rise on fixed responses, by the sizes of data and student.

    log quantity = intercept of the task + Σ exponent · log covariate + noise

An onset is known between two evaluations only: the middle of their logarithms is taken, so that what the spacing hides
is part of the noise. Of a run in which golden never turned it is known from below alone, and its rise from above;
leaving such runs out would shorten every onset and raise every rise. The fit is the maximum likelihood of normal noise
under these bounds, by expectation and maximisation. R runs, F columns of the law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from thack.detection.statistics import percentile_interval
from thack.schema.metrics import Floats
from thack.schema.size_law import Covariate, LeftOut, Quantity, SizedRun, SizeLaw

COVARIATES: tuple[Covariate, ...] = get_args(Covariate)
_ITERATIONS, _TOLERANCE = 1000, 1e-6  # of the weights and the spread, all in nats
_LEAST_SPREAD = 1e-3  # of runs that follow the law exactly
_RESAMPLES = 200
_CONFIDENCE = 0.95


def fit_size_law(
    runs: Sequence[SizedRun],
    quantity: Quantity,
    *,
    batch_size: int,
    learning_rate: float,
    num_undecided: int = 0,
    seed: int = 0,
) -> SizeLaw | None:
    """The law of these runs.

    Args:
        runs: On fixed responses; of any tasks.
        quantity: What is bounded in them.
        batch_size: Of all of them.
        learning_rate: Of all of them.
        num_undecided: Runs that are left out.
        seed: Of the resamples.

    Returns:
        None where no size differs by a factor of two, or fewer runs than the law has parameters, plus two, have both
        bounds.
    """
    covariates = [name for name in COVARIATES if _differs(_values(runs, name))]
    tasks = sorted({run.task for run in runs})
    turned = [run for run in runs if run.is_bounded]
    if not covariates or len(turned) < len(covariates) + len(tasks) + 2:
        return None
    data = _Data.of(runs, covariates, tasks)
    fit = data.fit()
    weights = fit.weights_F.tolist()
    return SizeLaw(
        quantity=quantity,
        intercepts=dict(zip(tasks, weights[: len(tasks)], strict=True)),
        exponents=dict(zip(covariates, weights[len(tasks) :], strict=True)),
        intervals=_intervals(data, covariates, seed),
        ranges={name: (min(values), max(values)) for name in COVARIATES if (values := _values(runs, name))},
        spread=fit.spread,
        left_out=tuple(_left_out(runs, covariates, tasks)),
        num_runs=len(runs),
        num_open=len(runs) - len(turned),
        num_undecided=num_undecided,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )


def _differs(values: Sequence[float]) -> bool:
    """Whether sizes say anything of an exponent: they are a factor of two apart."""
    return bool(values) and max(values) >= 2 * min(values)


def _values(runs: Sequence[SizedRun], name: Covariate) -> list[float]:
    return [float(getattr(run, name)) for run in runs]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """x_RF: one column for each task and each covariate; bounds of the logarithm, infinite where there is none."""

    x_RF: Floats
    low_R: Floats
    high_R: Floats

    @classmethod
    def of(cls, runs: Sequence[SizedRun], covariates: Sequence[Covariate], tasks: Sequence[str]) -> _Data:
        """Those of some runs."""
        logs = [[math.log(getattr(run, name)) for name in covariates] for run in runs]
        own = [[float(run.task == task) for task in tasks] for run in runs]
        return cls(
            x_RF=np.hstack([np.array(own), np.array(logs).reshape(len(runs), -1)]),
            low_R=np.array([math.log(run.low) if run.low > 0 else -math.inf for run in runs]),
            high_R=np.array([math.inf if run.high is None else math.log(run.high) for run in runs]),
        )

    def rows(self, chosen: NDArray[np.intp]) -> _Data:
        """Some of the runs, which may repeat."""
        return _Data(x_RF=self.x_RF[chosen], low_R=self.low_R[chosen], high_R=self.high_R[chosen])

    def middle_R(self) -> Floats:
        """One number for each run: the middle of its bounds, or the one that it has."""
        low_R = np.where(np.isfinite(self.low_R), self.low_R, self.high_R)
        middle_R: Floats = (low_R + np.where(np.isfinite(self.high_R), self.high_R, self.low_R)) / 2
        return middle_R

    def fit(self) -> _Fit:
        """Weights of the columns and the spread."""
        inverse_FR = np.asarray(np.linalg.pinv(self.x_RF), np.float64)
        middle_R = self.middle_R()
        is_open_R = ~(np.isfinite(self.low_R) & np.isfinite(self.high_R))
        weights_F = np.asarray(inverse_FR @ middle_R, np.float64)
        spread = self._spread(middle_R - self.x_RF @ weights_F, 0.0)
        for _ in range(_ITERATIONS if is_open_R.any() else 0):
            before_F, before = weights_F, spread
            mean_R, variance_R = _within(self.x_RF @ weights_F, spread, self.low_R, self.high_R)
            value_R = np.where(is_open_R, mean_R, middle_R)
            weights_F = np.asarray(inverse_FR @ value_R, np.float64)
            spread = self._spread(value_R - self.x_RF @ weights_F, float(variance_R[is_open_R].sum()))
            if max(abs(spread - before), float(np.abs(weights_F - before_F).max())) < _TOLERANCE:
                break
        return _Fit(weights_F=weights_F, spread=spread)

    def _spread(self, residual_R: Floats, variance: float) -> float:
        spare = max(len(residual_R) - self.x_RF.shape[1], 1)
        return max(math.sqrt((float(residual_R @ residual_R) + variance) / spare), _LEAST_SPREAD)


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


def _intervals(data: _Data, covariates: Sequence[Covariate], seed: int) -> Mapping[Covariate, tuple[float, float]]:
    """Of each exponent, over resampled runs; resamples that lack a task or a size are drawn again by the next."""
    rng, num_runs = np.random.default_rng(seed), len(data.low_R)
    found = []
    for _ in range(_RESAMPLES):
        part = data.rows(rng.integers(num_runs, size=num_runs))
        if np.linalg.matrix_rank(part.x_RF) == data.x_RF.shape[1]:
            found.append(part.fit().weights_F)
    if not found:
        return {}
    weights_BF = np.array(found)
    first = data.x_RF.shape[1] - len(covariates)
    each = {name: percentile_interval(weights_BF[:, first + i], _CONFIDENCE) for i, name in enumerate(covariates)}
    return {name: interval for name, interval in each.items() if interval is not None}


def _left_out(runs: Sequence[SizedRun], covariates: Sequence[Covariate], tasks: Sequence[str]) -> list[LeftOut]:
    """Each size foretold by the others, on the runs that have both bounds. Sizes within a factor of two are one."""
    found = []
    for name in covariates:
        for size in sorted({_size(run, name) for run in runs}):
            rest = [run for run in runs if _size(run, name) != size]
            turned = [run for run in runs if _size(run, name) == size and run.is_bounded]
            if not turned or not rest:
                continue
            known = _Data.of(rest, covariates, tasks)
            if np.linalg.matrix_rank(known.x_RF) < known.x_RF.shape[1]:
                continue
            wanted = _Data.of(turned, covariates, tasks)
            missed_R = wanted.middle_R() - wanted.x_RF @ known.fit().weights_F
            factor = math.exp(math.sqrt(float(np.mean(missed_R**2))))
            value = math.exp(float(np.mean(np.log(_values(turned, name)))))
            found.append(LeftOut(covariate=name, value=value, num_runs=len(turned), factor=factor))
    return found


def _size(run: SizedRun, name: Covariate) -> int:
    return round(math.log2(getattr(run, name)))
