"""What one evaluation gives: sums per prompt, their means with intervals, and health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from thack.detection.statistics import prompt_weights, reduced_interval
from thack.evaluation.samples import KeptResponses
from thack.schema.metric_rows import PerPromptRow, PromptSums
from thack.schema.metrics import Column, HealthName, MetricName, reductions

_INTERVAL_SEED = 20250203  # fixed: intervals are part of the measurement, not of the run
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One evaluation of one student.

    Attributes:
        columns: Every metric in nats, with both ends of its 95 % interval over prompts.
        per_prompt: What each metric was computed from.
        health: Columns beside the metrics; empty where they were not asked for.
        generated_tokens: Tokens that the student wrote for this evaluation.
        kept: Responses to the first prompts, token by token.
        scored_tokens: Response tokens that references scored in it, on all ranks.
    """

    columns: Mapping[MetricName, float]
    per_prompt: Mapping[MetricName, PromptSums]
    health: Mapping[HealthName, float]
    generated_tokens: int = 0
    scored_tokens: int = 0
    kept: KeptResponses | None = None

    def all_columns(self) -> dict[Column, float]:
        """Metrics, and health after them."""
        return dict((*self.columns.items(), *self.health.items()))

    def named(self) -> dict[str, float]:
        """The same by the names of their columns on disk."""
        return {str(name): value for name, value in self.all_columns().items()}

    def per_prompt_row(self, step: int | None) -> PerPromptRow:
        """The line of per_prompt.jsonl for an evaluation at `step`; None outside training."""
        return PerPromptRow(step=step, metrics=self.per_prompt)


class Intervals:
    """Means of sums per prompt, with percentile intervals: the same resamples of the prompts for all of them."""

    def __init__(self, num_prompts: int, resamples: int) -> None:
        self._weights_BP = prompt_weights(np.random.default_rng(_INTERVAL_SEED), num_prompts, resamples)

    def columns(self, per_prompt: Mapping[MetricName, PromptSums]) -> dict[MetricName, float]:
        """Every reduction of every metric, and both ends of its interval."""
        columns: dict[MetricName, float] = {}
        for name, sums in per_prompt.items():
            for reduction in reductions(name.divergence):
                if not sums.has(reduction):
                    continue
                column = replace(name, reduction=reduction)
                low, high = reduced_interval(sums, reduction, self._weights_BP, _CONFIDENCE)
                bounds = {replace(column, bound="low"): low, replace(column, bound="high"): high}
                columns |= {column: sums.mean(reduction), **bounds}
        return columns
