"""The numbers behind the curves: medians and ranges over seeds, paired intervals over prompts, CSV."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thack.detection import Series
from thack.detection.statistics import paired_band
from thack.reporting.csv_text import csv_text
from thack.reporting.inputs import ArmRuns
from thack.schema.metrics import CurveName, Floats


@dataclass(frozen=True, slots=True)
class Band:
    """One curve over steps, with a lower and an upper bound at each if there are any.

    Args:
        ends: the steps behind which fewer seeds are left.
    """

    step: Floats
    value: Floats
    low: Floats | None = None
    high: Floats | None = None
    ends: tuple[float, ...] = ()


def band_of(arm: ArmRuns, name: CurveName) -> Band | None:
    """An arm's curve: of one run with its paired interval, or the seeds' median with their range.

    A step counts where every seed that has come so far has it; one that ended earlier leaves the others.

    Args:
        arm: The runs.
        name: golden, proxy, baseline, monitor, fresh or train_loss.

    Returns:
        None if no run has the curve, or if the runs have no step in common.
    """
    series = [run.curves.of(name) for run in arm.runs]
    series = [one for one in series if len(one)]
    if not series:
        return None
    if len(series) == 1:
        return _single(arm, name, series[0])
    by_step = [dict(zip(one.step.tolist(), one.value.tolist(), strict=True)) for one in series]
    if not set.intersection(*map(set, by_step)):
        return None
    there: dict[float, list[float]] = {}
    for step in sorted(set.union(*map(set, by_step))):
        running = [one for one in by_step if max(one) >= step]
        if all(step in one for one in running):
            there[step] = [one[step] for one in running]
    return Band(
        step=np.array(list(there)),
        value=np.array([np.median(values) for values in there.values()]),
        low=np.array([min(values) for values in there.values()]),
        high=np.array([max(values) for values in there.values()]),
        ends=tuple(step for step, after in itertools.pairwise(there) if len(there[after]) < len(there[step])),
    )


def _single(arm: ArmRuns, name: CurveName, series: Series) -> Band:
    """Intervals are of the ratio to the value at golden's minimum: there the band has no width."""
    run = next(run for run in arm.runs if len(run.curves.of(name)))
    prompts, golden = run.curves.prompts(name), run.verdict.golden
    if prompts is None or golden is None or len(series) != len(run.curves.step_E):
        return Band(series.step, series.value)
    margins = run.verdict.margins
    anchor = int(np.flatnonzero(series.step == golden.minimum_step)[0])
    low_E, high_E = paired_band(
        prompts,
        anchor,
        resamples=margins.resamples,
        confidence=margins.confidence,
        seed=margins.seed,
    )
    return Band(series.step, series.value, low_E * series.value[anchor], high_E * series.value[anchor])


def smoothed(series: Series, num_bins: int = 40) -> Series:
    """Geometric means in bins even in log(step): a noisy training loss, readable."""
    used = (series.step > 0) & (series.value > 0)
    step, value = series.step[used], series.value[used]
    if len(step) < 2 * num_bins:
        return Series(step=step, value=value)
    edges = np.geomspace(step[0], step[-1] * 1.0001, num_bins + 1)
    bins = np.digitize(step, edges)
    kept = [number for number in range(1, num_bins + 1) if np.any(bins == number)]
    return Series(
        step=np.array([np.exp(np.log(step[bins == number]).mean()) for number in kept]),
        value=np.array([np.exp(np.log(value[bins == number]).mean()) for number in kept]),
    )


def curves_csv(arms: Sequence[ArmRuns], names: Sequence[CurveName]) -> str:
    """Every run's values of some curves, as CSV."""
    rows = []
    for arm in arms:
        for run, name in itertools.product(arm.runs, names):
            series, column = run.curves.of(name), run.curves.column_of.get(name, "")
            rows += [
                [arm.name, run.seed, run.name, int(step) if step.is_integer() else step, name, column, value]
                for step, value in zip(series.step.tolist(), series.value.tolist(), strict=True)
            ]
    return csv_text(("arm", "seed", "run", "step", "metric", "column", "value"), rows)
