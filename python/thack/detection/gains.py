"""What distillation gained over plain fine-tuning: the ends of two runs on the same held-out prompts, paired.

P prompts of the evaluation set, B resamples of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thack.detection.statistics import percentile_interval, resampled_means
from thack.runtime import runlog
from thack.schema.metrics import GOLDEN, MetricName, PerPromptRow, PromptSums, Role
from thack.schema.run import SUPERVISED
from thack.schema.verdict import Gain, Interval

_FILE = "per_prompt.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideSft:
    """A distillation and the plain fine-tuning in its directory, at the last step at which both were evaluated."""

    step: int
    ends: Mapping[MetricName, tuple[PromptSums, PromptSums]]  # of the distillation, of the fine-tuning


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
    names = [name for role in Role if (name := GOLDEN.against(role).per_prompt) in own[step] and name in other[step]]
    ends = {name: (own[step][name], other[step][name]) for name in names}
    same = {name: pair for name, pair in ends.items() if np.array_equal(pair[0].tokens_P, pair[1].tokens_P)}
    if len(same) < len(ends):
        return None, (f"the plain fine-tuning in {SUPERVISED}/ was measured on other responses: it is not compared",)
    short = [f"the plain fine-tuning in {SUPERVISED}/ has only come to step {step}"] if step < max(own) else []
    return BesideSft(step=step, ends=ends), tuple(short)


def gains(found: BesideSft | None, *, confidence: float, resamples: int, seed: int) -> tuple[Gain, ...]:
    """How much nearer distillation came on each metric, with an interval over prompts."""
    if found is None:
        return ()
    return tuple(
        Gain(
            column=str(name),
            step=found.step,
            distilled=distilled.token_mean,
            supervised=supervised.token_mean,
            interval=_interval(distilled, supervised, confidence, resamples, seed),
        )
        for name, (distilled, supervised) in found.ends.items()
    )


def _interval(
    distilled: PromptSums, supervised: PromptSums, confidence: float, resamples: int, seed: int
) -> Interval | None:
    """Of the difference, in the same resamples of the prompts; None of a single prompt."""
    if len(distilled.nats_P) < 2:
        return None
    nats_2P = np.stack([supervised.nats_P, distilled.nats_P])
    means_B2 = resampled_means(nats_2P, distilled.tokens_P.astype(np.float64), resamples=resamples, seed=seed)
    return percentile_interval(means_B2[:, 0] - means_B2[:, 1], confidence)


def _by_step(path: Path) -> dict[int, Mapping[MetricName, PromptSums]]:
    rows = map(PerPromptRow.parse, runlog.read(path)) if path.is_file() else ()
    return {row.step: row.metrics for row in rows if row.step is not None}
