"""The numbers behind the curves: medians and ranges over seeds, paired intervals over prompts, CSV."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thack.detection import Series
from thack.detection.bootstrap import paired_band
from thack.detection.curves import Floats
from thack.reporting.csv_text import csv_text
from thack.reporting.runs import Arm
from thack.schema.metrics import find_metric


@dataclass(frozen=True, slots=True)
class Line:
    """One curve with its band."""

    step: Floats
    value: Floats
    low: Floats | None = None
    high: Floats | None = None


def line_of(arm: Arm, word: str) -> Line | None:
    """The arm's curve: a run's own with the paired interval, or the seeds' median with their range."""
    series = [run.curves.of(word) for run in arm.runs]
    series = [one for one in series if len(one)]
    if not series:
        return None
    if len(series) == 1:
        return _single(arm, word, series[0])
    steps = sorted(set.intersection(*(set(one.step.tolist()) for one in series)))
    values_SE = np.array([[one.value[one.step == step][-1] for step in steps] for one in series])
    if not steps:
        return None
    return Line(np.array(steps), np.median(values_SE, axis=0), values_SE.min(axis=0), values_SE.max(axis=0))


def _single(arm: Arm, word: str, series: Series) -> Line:
    """Intervals are of the ratio to the value at golden's minimum: there the band has no width."""
    run = next(run for run in arm.runs if len(run.curves.of(word)))
    prompts, golden = run.curves.prompts(word), run.verdict.golden
    metric = find_metric("" if golden is None else golden.column)
    if prompts is None or golden is None or metric is None or len(series) != len(run.curves.step_E):
        return Line(series.step, series.value)
    margins = run.verdict.margins
    anchor = int(np.flatnonzero(series.step == golden.minimum_step)[0])
    low_E, high_E = paired_band(
        prompts,
        anchor,
        reduction=metric.reduction,
        resamples=margins.resamples,
        confidence=margins.confidence,
        seed=margins.seed,
    )
    return Line(series.step, series.value, low_E * series.value[anchor], high_E * series.value[anchor])


def smoothed(series: Series, num_bins: int = 40) -> Series:
    """Geometric means in bins even in log(step): what a noisy training loss does, readable."""
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


def table_of(arms: Sequence[Arm], words: Sequence[str]) -> str:
    """CSV of every run's values."""
    rows = []
    for arm in arms:
        for run, word in itertools.product(arm.runs, words):
            series, column = run.curves.of(word), run.curves.words.get(word, "")
            rows += [
                [arm.name, run.seed, run.name, f"{step:.10g}", word, column, value]
                for step, value in zip(series.step.tolist(), series.value.tolist(), strict=True)
            ]
    return csv_text(("arm", "seed", "run", "step", "metric", "column", "value"), rows)
