"""How much evidence stands behind an alarm without an oracle: a ratio over the whole stretch, its interval, doubts.

B resamples. A detector fires at one evaluation. A verdict after the run knows more: whether what the detector saw went
on to the end, how well the prompts determine it, and whether the student is still on its way to its teacher.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thack.detection import signals
from thack.detection.curves import Curves
from thack.detection.statistics import PromptCurves, percentile_interval, prompt_weights
from thack.schema.metrics import CurveName, Floats
from thack.schema.verdict import Detection, Doubt, Interval, Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What stands behind a deciding detector."""

    num_evaluations: int  # judged ones, with both of its curves
    ratio: float | None = None  # from the evaluation at which the alarm's ratio begins to the end
    interval: Interval | None = None  # of it, over prompts; None without an alarm or without values per prompt
    doubts: tuple[Doubt, ...] = ()


def evidence(curves: Curves, found: Detection, of: CurveName, limits: Thresholds) -> Evidence:
    """Look behind a detection of a slope ratio.

    Args:
        curves: The run.
        found: What the detector that decides found.
        of: The curve that it compares with the training responses: fresh or proxy.
        limits: The thresholds of the verdict.
    """
    step_E, value_E, other_E = signals.paired(curves, of, "monitor", limits.warmup_steps)
    is_few = len(step_E) < limits.min_evaluations and found.state != "not enough data"
    few: tuple[Doubt, ...] = ("few evaluations",) if is_few else ()
    if found.onset_step is None or found.alarm_step is None:
        return Evidence(num_evaluations=len(step_E), doubts=few)
    since = int(np.flatnonzero(step_E == found.onset_step)[0])
    # The last evaluation at which training had progressed; the alarm's own is one.
    end = int(np.flatnonzero(np.log(other_E / other_E[since]) < -signals.TINY)[-1])
    ratio = float(np.log(value_E[end] / value_E[since]) / np.log(other_E[end] / other_E[since]))
    interval = _interval(curves, of, float(step_E[since]), float(step_E[end]), limits)
    doubts = list(few)
    if (ratio if interval is None else interval[1]) >= found.threshold:
        doubts.append("ratio not surely below")
    elif interval is None and int(np.sum(found.series.step >= found.alarm_step)) < 2:
        doubts.append("one ratio")
    if _still_learns(curves, value_E[[since, end]], step_E[[since, end]], limits):
        doubts.append("still learning")
    return Evidence(num_evaluations=len(step_E), ratio=ratio, interval=interval, doubts=tuple(doubts))


def _still_learns(curves: Curves, value_2: Floats, step_2: Floats, limits: Thresholds) -> bool:
    """Whether the student is far from its teacher, and comes closer on responses that it does not train on."""
    proxy = curves.of("proxy")
    far = len(proxy) > 0 and proxy.value[-1] > limits.far * proxy.value[0]
    exponent = -np.log(value_2[1] / value_2[0]) / np.log(step_2[1] / step_2[0])
    return bool(far and exponent > limits.learning)


def _interval(curves: Curves, of: CurveName, since: float, end: float, limits: Thresholds) -> Interval | None:
    """Over prompts. Both curves on training prompts are paired; held-out prompts are drawn apart from these."""
    sums, others = curves.prompts(of), curves.prompts("monitor")
    if sums is None or others is None:
        return None
    first, second = np.random.SeedSequence(limits.seed).spawn(2)
    ends = [int(np.flatnonzero(curves.step_E == step)[0]) for step in (since, end)]
    value_B2 = _resampled(sums, ends, first, limits.resamples)
    other_B2 = _resampled(others, ends, first if of == "fresh" else second, limits.resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_B = np.log(value_B2[:, 1] / value_B2[:, 0]) / np.log(other_B2[:, 1] / other_B2[:, 0])
    return percentile_interval(ratio_B, limits.confidence)


def _resampled(sums: PromptCurves, ends: list[int], seed: np.random.SeedSequence, count: int) -> Floats:
    """Nats per token at the evaluations `ends`, in resamples of the prompts."""
    weights_BP = prompt_weights(np.random.default_rng(seed), sums.nats_EP.shape[1], count)
    value_B2: Floats = (weights_BP @ sums.nats_EP[ends].T) / (weights_BP @ sums.tokens_EP[ends].T)
    return value_B2
