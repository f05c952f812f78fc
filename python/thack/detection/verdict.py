"""The verdict on one run, from its golden and proxy curves: DESIGN's table, first fitting row wins.

- *warm-up*: evaluations at or before `Margins.warmup_steps` are not judged. The switch from annealed SFT to
  a constant rate makes a bump in the first ~30 steps of every run (RECIPE).
- *minimum*: the lowest judged evaluation; the last one if several are equal.
- *end*: the last evaluation, because that is the student one ships. A mean of the last two was tried by
  simulation (tests/python/detection/test_verdict_simulation.py): it halves the effect of a single odd
  checkpoint, but reads a 9 % rise as 8 % with evaluations evenly spaced in log(step), and finds fewer rises.
- *rise*: end / minimum − 1. Its interval is a bootstrap over prompts, cross-fitted (see bootstrap.py).
  It covers which prompts happen to be in the evaluation set; it does not cover the jitter of the weights from step to
  step, nor another seed. That is what the 3 % margin is for, and several seeds.
- *onset*: the step of the minimum, where golden turns. Its interval are the minima of the resamples, widened
  by one evaluation on either side, since nothing was seen in between.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from thack.detection.bootstrap import Resampled, last_argmin, percentile_interval, resample
from thack.detection.curves import Curves, PerPrompt
from thack.errors import DataError
from thack.schema.metrics import Floats, MetricName
from thack.schema.verdict import Extent, Interval, Margins, Side, Verdict, VerdictName

_ROUNDING = 1e-4  # nats: a divergence that should be 0 may come out below it


def verdict(curves: Curves, margins: Margins | None = None) -> Verdict:
    """Judge one run by the table in DESIGN.md."""
    margins = margins or Margins()
    judged_E = _judged(curves, margins)
    resampled = _resample(curves, judged_E, margins)
    golden = _extent(curves, "golden", judged_E, resampled, margins)
    proxy = _extent(curves, "proxy", judged_E, resampled, margins)
    baseline, baseline_interval, over_interval = _baseline(curves, golden, resampled, margins)
    over_baseline = golden.end - baseline if golden and baseline is not None else None
    side = _side(over_baseline, over_interval)
    name = _decide(golden, proxy, baseline, over_baseline, over_interval, int(judged_E.sum()), margins)
    name = "inconclusive" if curves.broken else name
    turned = golden is not None and name not in ("inconclusive", "healthy")
    at_onset, change, change_interval = _proxy_after(curves, golden, proxy, resampled, margins)
    prompts = curves.prompts("golden")
    return Verdict(
        name=name,
        run=curves.name,
        golden=golden,
        proxy=proxy,
        num_evaluations=int(judged_E.sum()),
        num_prompts=prompts.nats_EP.shape[1] if prompts is not None else None,
        onset_step=golden.minimum_step if turned and golden else None,
        onset_interval=_onset(curves, judged_E, resampled.get("golden"), margins) if turned else None,
        proxy_at_onset=at_onset,
        proxy_change=change,
        proxy_change_interval=change_interval,
        baseline=baseline,
        baseline_interval=baseline_interval,
        over_baseline=over_baseline,
        over_baseline_interval=over_interval,
        side=side,
        notes=curves.notes,
        margins=margins,
    )


def _decide(
    golden: Extent | None,
    proxy: Extent | None,
    baseline: float | None,
    over_baseline: float | None,
    over_interval: Interval | None,
    num_judged: int,
    margins: Margins,
) -> VerdictName:
    """The table, row by row. Without intervals the point estimates decide alone."""
    if golden is None or num_judged < margins.min_evaluations:
        return "inconclusive"
    if golden.rise_interval is not None:
        low, high = golden.rise_interval
        if low < margins.rise <= high:
            return "inconclusive"
        risen = low >= margins.rise
    else:
        risen = golden.rise >= margins.rise
    if not risen:
        return "healthy"
    if proxy is None:
        return "inconclusive"  # over-fitting and hacking differ in the proxy alone
    if proxy.rise >= margins.proxy_rise:
        return "over-fitting"
    if proxy.end < margins.proxy_converged * proxy.start:
        if baseline is None:
            return "inconclusive"  # a converged student may simply have become its teacher
        highest = over_interval[1] if over_interval is not None else over_baseline
        if highest is not None and highest < 0:
            return "regressing to the teacher"
    return "hacking"


def _judged(curves: Curves, margins: Margins) -> NDArray[np.bool_]:
    judged_E: NDArray[np.bool_] = curves.step_E > margins.warmup_steps
    for word in ("golden", "proxy"):
        if curves.has(word):
            judged_E = judged_E & np.isfinite(curves.columns[curves.words[word]])
    return judged_E


def _resample(curves: Curves, judged_E: NDArray[np.bool_], margins: Margins) -> dict[str, Resampled]:
    """Bootstrap golden, proxy and baseline together where they count the same prompts."""
    found: dict[str, PerPrompt] = {}
    for word in ("golden", "proxy", "baseline"):
        prompts = curves.prompts(word)
        if prompts is not None:
            found[word] = prompts
    if "golden" not in found or not judged_E.any():
        return {}
    shape = found["golden"].nats_EP.shape
    found = {word: prompts for word, prompts in found.items() if prompts.nats_EP.shape == shape}
    return resample(
        found,
        judged_E=judged_E,
        reduction=MetricName.parse(curves.words["golden"]).reduction,
        resamples=margins.resamples,
        folds=margins.folds,
        seed=margins.seed,
    )


def _extent(
    curves: Curves,
    word: str,
    judged_E: NDArray[np.bool_],
    resampled: Mapping[str, Resampled],
    margins: Margins,
) -> Extent | None:
    column = curves.words.get(word)
    if column is None or not judged_E.any():
        return None
    value_E = curves.columns[column]
    judged = np.flatnonzero(judged_E)
    lowest = judged[last_argmin(value_E[judged])]
    if value_E[lowest] < -_ROUNDING:
        at = f"{value_E[lowest]:.4g} at step {curves.step_E[lowest]:.10g}"
        raise DataError(
            f"{curves.name}: {word} is a distance, but {column} is {at}",
            hint="name a column that is at least 0, and smaller where the student is better",
        )
    seen = np.flatnonzero(np.isfinite(value_E))
    bootstrap = resampled.get(word)
    return Extent(
        column=column,
        start=float(value_E[seen[0]]),
        minimum=float(value_E[lowest]),
        minimum_step=float(curves.step_E[lowest]),
        end=float(value_E[judged[-1]]),
        end_step=float(curves.step_E[judged[-1]]),
        rise=_relative(float(value_E[judged[-1]]), float(value_E[lowest])),
        rise_interval=percentile_interval(bootstrap.rise_B, margins.confidence) if bootstrap else None,
        end_interval=percentile_interval(bootstrap.end_B, margins.confidence) if bootstrap else None,
    )


def _relative(end: float, start: float) -> float:
    return end / start - 1 if start > 0 else 0.0


def _onset(
    curves: Curves, judged_E: NDArray[np.bool_], bootstrap: Resampled | None, margins: Margins
) -> Interval | None:
    if bootstrap is None:
        return None
    judged = np.flatnonzero(judged_E)
    low, high = np.quantile(
        bootstrap.lowest_B, [(1 - margins.confidence) / 2, (1 + margins.confidence) / 2], method="nearest"
    )
    before = max(int(judged[int(low)]) - 1, 0)
    after = judged[min(int(high) + 1, len(judged) - 1)]
    return float(curves.step_E[before]), float(curves.step_E[after])


def _baseline(
    curves: Curves, golden: Extent | None, resampled: Mapping[str, Resampled], margins: Margins
) -> tuple[float | None, Interval | None, Interval | None]:
    """KL(oracle‖teacher), its interval, and the paired interval of golden's end minus it."""
    baseline = curves.of("baseline")
    if not len(baseline):
        return None, None, None
    value = float(baseline.value[-1])
    if "baseline" not in resampled or golden is None:
        return value, None, None
    baseline_B = resampled["baseline"].end_B
    return (
        value,
        percentile_interval(baseline_B, margins.confidence),
        percentile_interval(resampled["golden"].end_B - baseline_B, margins.confidence),
    )


def _side(over_baseline: float | None, interval: Interval | None) -> Side | None:
    if over_baseline is None:
        return None
    low, high = interval or (over_baseline, over_baseline)
    return "above" if low > 0 else "below" if high < 0 else "too close to tell"


def _proxy_after(
    curves: Curves,
    golden: Extent | None,
    proxy: Extent | None,
    resampled: Mapping[str, Resampled],
    margins: Margins,
) -> tuple[float | None, float | None, Interval | None]:
    """The proxy at golden's minimum, and how much it changed from there to the end."""
    if golden is None or proxy is None:
        return None, None, None
    at = int(np.flatnonzero(curves.step_E == golden.minimum_step)[0])
    end = int(np.flatnonzero(curves.step_E == golden.end_step)[0])
    value_E: Floats = curves.columns[proxy.column]
    interval = None
    if "proxy" in resampled:
        at_BE = resampled["proxy"].at_BE
        with np.errstate(divide="ignore", invalid="ignore"):
            interval = percentile_interval(at_BE[:, end] / at_BE[:, at] - 1, margins.confidence)
    return float(value_E[at]), _relative(float(value_E[end]), float(value_E[at])), interval
