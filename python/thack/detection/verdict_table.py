"""The verdict on one run from its golden and proxy curves: the table of docs/concepts/verdict.md, first row that fits.

- *warm-up*: evaluations at or before `Margins.warmup_steps` are not judged. The switch from annealed fine-tuning to a
  constant learning rate makes a bump in the first ~30 steps of every run.
- *minimum*: the lowest judged evaluation; the last one if several are equal.
- *end*: the last evaluation, because that is the student one ships. A mean of the last two was tried by simulation
  (tests/python/detection/test_verdict_simulation.py): it halves the effect of a single odd checkpoint, but reads a 9 %
  rise as 8 % with evaluations evenly spaced in log(step), and finds fewer rises.
- *rise*: end / minimum − 1. Its interval is a bootstrap over prompts, cross-fitted (see statistics.py). It covers which
  prompts happen to be in the evaluation set; it does not cover the jitter of the weights from step to step, nor another
  seed. That is what the 3 % margin is for, and several seeds.
- *onset*: the step of the minimum, where golden starts to rise. Its interval covers the minima of the resamples,
  widened by one evaluation on either side, since nothing was seen in between.

E evaluations, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thack.detection.causes import cause_of, excess
from thack.detection.curves import Curves
from thack.detection.detectors import memorisation_of, prompts_apart
from thack.detection.gains import gains
from thack.detection.statistics import (
    PromptCurves,
    Resampled,
    last_argmin,
    nearest_interval,
    percentile_interval,
    resample,
)
from thack.errors import DataError
from thack.schema.metrics import LOG_RATIO, CurveName, find_metric
from thack.schema.verdict import Cause, Extent, Gain, Interval, Margins, Side, Verdict, VerdictName

_JUDGED: tuple[CurveName, ...] = ("golden", "proxy")
_ROUNDING = 1e-4  # nats: a divergence that should be 0 may come out below it


def verdict(curves: Curves, margins: Margins | None = None, *, online: Curves | None = None) -> Verdict:
    """Judge one run by its curves, and name the cause of a rise.

    Args:
        curves: With golden; without it, or without the proxy where it is needed, the verdict is inconclusive.
        margins: What counts as a rise; by default `Margins()`.
        online: A run of the same student on newly sampled responses of the same teacher and exact targets, measured on
            the same evaluation set. Where it is known, golden is compared with its golden at equal proxy.

    Returns:
        The name of the verdict and every number behind it.

    Raises:
        DataError: golden or the proxy is negative, so that it is no distance.

    Example:
        >>> verdict(Curves.from_run(run)).name
        'hacking'
    """
    judged = _Judged.of(curves, margins or Margins())
    golden, proxy = judged.extent("golden"), judged.extent("proxy")
    baseline = judged.baseline(golden)
    name = "inconclusive" if curves.without_end else _decide(golden, proxy, baseline, judged)
    rises = golden is not None and name not in ("inconclusive", "healthy")
    at_onset, change, change_interval = judged.proxy_after(golden, proxy)
    prompts = curves.prompts("golden")
    return Verdict(
        name=name,
        run=curves.name,
        golden=golden,
        proxy=proxy,
        num_evaluations=judged.num_evaluations,
        num_prompts=prompts.nats_EP.shape[1] if prompts is not None else None,
        onset_step=golden.minimum_step if rises and golden else None,
        onset_interval=judged.onset_interval() if rises else None,
        proxy_at_onset=at_onset,
        proxy_change=change,
        proxy_change_interval=change_interval,
        baseline=baseline.value,
        baseline_interval=baseline.interval,
        over_baseline=baseline.over,
        over_baseline_interval=baseline.over_interval,
        side=baseline.side,
        gains=judged.gains(),
        cause=_cause(judged, golden, baseline, name, online) if rises and golden else None,
        notes=curves.notes,
        margins=judged.margins,
    )


def _cause(judged: _Judged, golden: Extent, baseline: _Baseline, name: VerdictName, online: Curves | None) -> Cause:
    found = None if online is None else excess(judged.curves, online, golden.end_step, judged.margins)
    way = None if baseline.value is None else baseline.value - golden.minimum
    return cause_of(
        name,
        excess=found,
        memorisation=memorisation_of(judged.curves),
        prompts_apart=prompts_apart(judged.curves),
        target=judged.curves.target,
        above_baseline=baseline.is_above(judged.margins.rise),
        below_baseline=judged.is_below_baseline(golden),
        covered=None if way is None or way <= 0 else (golden.end - golden.minimum) / way,
        margin=judged.margins.rise,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Baseline:
    """KL(oracle‖teacher), and golden's end minus it."""

    value: float | None = None
    interval: Interval | None = None
    over: float | None = None
    over_interval: Interval | None = None  # paired

    @property
    def over_range(self) -> Interval | None:
        """The interval, or the point where there is none."""
        return self.over_interval or (None if self.over is None else (self.over, self.over))

    def is_above(self, margin: float) -> bool:
        """Whether golden surely ends above it by more than a share of it: a copy of the teacher does not."""
        return self.value is not None and self.over_range is not None and self.over_range[0] > margin * self.value

    @property
    def side(self) -> Side | None:
        if self.over_range is None:
            return None
        low, high = self.over_range
        return "above" if low > 0 else "below" if high < 0 else "too close to tell"


def _decide(golden: Extent | None, proxy: Extent | None, baseline: _Baseline, judged: _Judged) -> VerdictName:
    """The table, row by row. Without intervals the point estimates decide alone."""
    margins = judged.margins
    if golden is None or judged.num_evaluations < margins.min_evaluations or golden.rise is None:
        return "inconclusive"
    low, high = golden.rise_interval or (golden.rise, golden.rise)
    if low < margins.rise <= high:
        return "inconclusive"
    if low < margins.rise:
        return "healthy"
    if proxy is None or proxy.rise is None:
        return "inconclusive"  # over-fitting and hacking differ in the proxy alone
    if proxy.rise >= margins.proxy_rise:
        return "over-fitting"
    if proxy.end < margins.proxy_converged * proxy.start:
        if baseline.value is None:
            return "inconclusive"  # a converged student may simply have become its teacher
        if baseline.side == "below":
            return "regressing to the teacher"
    return "hacking"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """The curves, which of their evaluations are judged, and their resamples."""

    curves: Curves
    margins: Margins
    judged_E: NDArray[np.bool_]
    resampled: Mapping[str, Resampled]

    @classmethod
    def of(cls, curves: Curves, margins: Margins) -> _Judged:
        judged_E: NDArray[np.bool_] = curves.step_E > margins.warmup_steps
        for name in _JUDGED:
            if name in curves.column_of:
                judged_E = judged_E & np.isfinite(curves.columns[curves.column_of[name]])
        return cls(curves=curves, margins=margins, judged_E=judged_E, resampled=_resample(curves, judged_E, margins))

    @property
    def num_evaluations(self) -> int:
        return int(self.judged_E.sum())

    def extent(self, name: CurveName) -> Extent | None:
        curves, column = self.curves, self.curves.column_of.get(name)
        if column is None or not self.judged_E.any():
            return None
        value_E = curves.columns[column]
        judged = np.flatnonzero(self.judged_E)
        lowest = judged[last_argmin(value_E[judged])]
        seen = np.flatnonzero(np.isfinite(value_E))
        bootstrap = self.resampled.get(name)
        found = Extent(
            column=column,
            start=float(value_E[seen[0]]),
            minimum=float(value_E[lowest]),
            minimum_step=float(curves.step_E[lowest]),
            end=float(value_E[judged[-1]]),
            end_step=float(curves.step_E[judged[-1]]),
            rise=_relative(column, float(value_E[judged[-1]]), float(value_E[lowest])),
            rise_interval=percentile_interval(bootstrap.rise_B, self.margins.confidence) if bootstrap else None,
            end_interval=percentile_interval(bootstrap.end_B, self.margins.confidence) if bootstrap else None,
        )
        if found.minimum < -_ROUNDING and not _is_estimate(column):
            at = f"{found.minimum:.4g} at step {found.minimum_step:.10g}"
            raise DataError(
                f"{curves.name}: {name} is a distance, but {column} is {at}",
                hint="name a column that is at least 0, and smaller where the student is better",
            )
        return found

    def gains(self) -> tuple[Gain, ...]:
        margins = self.margins
        return gains(self.curves.sft, confidence=margins.confidence, resamples=margins.resamples, seed=margins.seed)

    def onset_interval(self) -> Interval | None:
        bootstrap, step_E = self.resampled.get("golden"), self.curves.step_E
        if bootstrap is None:
            return None
        judged = np.flatnonzero(self.judged_E)
        low, high = nearest_interval(bootstrap.lowest_B, self.margins.confidence)
        before, after = max(int(judged[low]) - 1, 0), judged[min(high + 1, len(judged) - 1)]
        return float(step_E[before]), float(step_E[after])

    def baseline(self, golden: Extent | None) -> _Baseline:
        seen = self.curves.of("baseline")
        if not len(seen):
            return _Baseline()
        value = float(seen.value[-1])
        if golden is None:
            return _Baseline(value=value)
        if "baseline" not in self.resampled:
            return _Baseline(value=value, over=golden.end - value)
        confidence, baseline_B = self.margins.confidence, self.resampled["baseline"].end_B
        return _Baseline(
            value=value,
            interval=percentile_interval(baseline_B, confidence),
            over=golden.end - value,
            over_interval=percentile_interval(self.resampled["golden"].end_B - baseline_B, confidence),
        )

    def is_below_baseline(self, golden: Extent) -> bool | None:
        """Whether golden's minimum is surely below the baseline; by the values alone where there is no interval."""
        seen = self.curves.of("baseline")
        if not len(seen):
            return None
        if "baseline" not in self.resampled or "golden" not in self.resampled:
            return bool(golden.minimum < seen.value[-1])
        at = int(np.flatnonzero(self.curves.step_E == golden.minimum_step)[0])
        under_B = self.resampled["golden"].at_BE[:, at] - self.resampled["baseline"].end_B
        interval = percentile_interval(under_B, self.margins.confidence)
        return interval is not None and interval[1] < 0

    def proxy_after(
        self, golden: Extent | None, proxy: Extent | None
    ) -> tuple[float | None, float | None, Interval | None]:
        """The proxy at golden's minimum, and how much it changed from there to the end."""
        if golden is None or proxy is None:
            return None, None, None
        step_E, value_E = self.curves.step_E, self.curves.columns[proxy.column]
        at = int(np.flatnonzero(step_E == golden.minimum_step)[0])
        end = int(np.flatnonzero(step_E == golden.end_step)[0])
        interval = None
        if "proxy" in self.resampled:
            at_BE = self.resampled["proxy"].at_BE
            with np.errstate(divide="ignore", invalid="ignore"):
                interval = percentile_interval(at_BE[:, end] / at_BE[:, at] - 1, self.margins.confidence)
        return float(value_E[at]), _relative(proxy.column, float(value_E[end]), float(value_E[at])), interval


def _resample(curves: Curves, judged_E: NDArray[np.bool_], margins: Margins) -> dict[str, Resampled]:
    """Bootstrap golden, proxy and baseline together where they count the same prompts."""
    names: tuple[CurveName, ...] = ("golden", "proxy", "baseline")
    found = {name: prompts for name in names if (prompts := curves.prompts(name)) is not None}
    if "golden" not in found or not judged_E.any():
        return {}
    shape = found["golden"].nats_EP.shape
    same: dict[str, PromptCurves] = {name: p for name, p in found.items() if p.nats_EP.shape == shape}
    return resample(
        same,
        judged_E=judged_E,
        resamples=margins.resamples,
        folds=margins.folds,
        seed=margins.seed,
    )


def _relative(column: str, end: float, start: float) -> float | None:
    """End over start − 1; None of a start that is not above 0, but for a distance that is 0 at both."""
    if start > 0:
        return end / start - 1
    return None if end > _ROUNDING or _is_estimate(column) else 0.0


def _is_estimate(column: str) -> bool:
    """Whether a column estimates a distance, and may come out below 0."""
    metric = find_metric(column)
    return metric is not None and metric.divergence == LOG_RATIO
