"""What distillation gained over plain fine-tuning: the ends of two runs on the same held-out prompts, paired.

P prompts of the evaluation set, B resamples of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thack.detection.statistics import percentile_interval, resampled_means
from thack.runtime import runlog
from thack.schema.metric_rows import PerPromptRow, PromptSums
from thack.schema.metrics import GOLDEN, MetricName, Role
from thack.schema.run import SUPERVISED
from thack.schema.verdict import Gain, Interval

_FILE = "per_prompt.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideSft:
    """A distillation and the plain fine-tuning in its directory, at the last step at which both were evaluated."""

    step: int
    ends: Mapping[MetricName, tuple[PromptSums, PromptSums]]  # by metric with its reduction: distillation, fine-tuning


def beside_sft(directory: Path) -> tuple[BesideSft | None, tuple[str, ...]]:
    """The fine-tuning beside a run, if there is one, and what is to be known of it."""
    place = directory / SUPERVISED
    if not place.is_dir():
        return None, ()
    own, other = _by_step(directory / _FILE), _by_step(place / _FILE)
    shared = own.keys() & other.keys() - {0}
    if not shared:
        return None, (f"the plain fine-tuning in {SUPERVISED}/ has no evaluation yet: there is no gain to show",)
    step = max(shared)
    shared_names = own[step].keys() & other[step].keys()
    names = [name for role in Role if (name := _measured(GOLDEN.against(role), shared_names)) is not None]
    ends = {name: (own[step][name.per_prompt], other[step][name.per_prompt]) for name in names}
    same = {name: pair for name, pair in ends.items() if np.array_equal(pair[0].tokens_P, pair[1].tokens_P)}
    if len(same) < len(ends):
        return None, (f"the plain fine-tuning in {SUPERVISED}/ was measured on other responses: it is not compared",)
    short = [f"the plain fine-tuning in {SUPERVISED}/ has only come to step {step}"] if step < max(own) else []
    return BesideSft(step=step, ends=ends), tuple(short)


def _measured(metric: MetricName, names: Collection[MetricName]) -> MetricName | None:
    """The metric, or the same per byte, where it was measured prompt by prompt."""
    return next((one for one in (metric, metric.per_byte) if one.per_prompt in names), None)


def gains(found: BesideSft | None, *, confidence: float, resamples: int, seed: int) -> tuple[Gain, ...]:
    """How much nearer distillation came on each metric, with an interval over prompts."""
    if found is None:
        return ()
    return tuple(
        Gain(
            column=str(name.per_prompt),
            step=found.step,
            distilled=distilled.mean(name.reduction or "token_mean"),
            supervised=supervised.mean(name.reduction or "token_mean"),
            interval=_interval(distilled, supervised, name, confidence=confidence, resamples=resamples, seed=seed),
        )
        for name, (distilled, supervised) in found.ends.items()
    )


def _interval(
    distilled: PromptSums, supervised: PromptSums, name: MetricName, *, confidence: float, resamples: int, seed: int
) -> Interval | None:
    """Of the difference, in the same resamples of the prompts; None of a single prompt."""
    if len(distilled.nats_P) < 2:
        return None
    nats_2P = np.stack([supervised.nats_P, distilled.nats_P])
    means_B2 = resampled_means(nats_2P, distilled.counts_P(name.reduction), resamples=resamples, seed=seed)
    return percentile_interval(means_B2[:, 0] - means_B2[:, 1], confidence)


def _by_step(path: Path) -> dict[int, Mapping[MetricName, PromptSums]]:
    rows = map(PerPromptRow.parse, runlog.read(path)) if path.is_file() else ()
    return {row.step: row.metrics for row in rows if row.step is not None}
