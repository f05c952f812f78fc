"""What distillation gained over the plain fine-tuning beside it, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from thack.reporting.numbers import decimal
from thack.schema.metrics import LOG_RATIO, Role, find_metric
from thack.schema.verdict import Gain

_METRIC = {
    Role.ORACLE: "golden",
    Role.TEACHER: "the proxy",
    Role.JUDGE: "the distance to the judge",
    Role.HUMAN: "the log-likelihood of human responses",
}


def gained(gains: Sequence[Gain]) -> str:
    """One clause, without a capital letter and without a full stop; empty without gains.

    Example:
        >>> column = "golden/forward_kl/reference_sampled"
        >>> one = Gain(column=column, step=9, distilled=0.25, supervised=0.5, interval=(0.125, 0.375))
        >>> gained([one])
        'over plain fine-tuning on the same responses (step 9), distillation gained 0.250 [0.125, 0.375] nats on golden'
    """
    if not gains:
        return ""
    return f"over plain fine-tuning on the same responses (step {gains[0].step}), distillation gained " + ", ".join(
        _one(gain, unit=f" {_unit([gain.column])}" * (not number)) for number, gain in enumerate(gains)
    )


def median_gains(runs: Sequence[Sequence[Gain]]) -> list[str]:
    """The same for several seeds, of which each has its gains: the median and the range; nothing where none has any."""
    by_column: dict[str, list[float]] = {}
    for gain in (gain for gains in runs for gain in gains):
        by_column.setdefault(gain.column, []).append(gain.value)
    if not by_column:
        return []
    parts = [
        f"{decimal(median(found), 3)} on {_name(column)} (seeds: {decimal(min(found), 3)} to {decimal(max(found), 3)})"
        for column, found in by_column.items()
    ]
    unit = _unit(list(by_column))
    return [f"over plain fine-tuning on the same responses, distillation gained, in {unit}, {', '.join(parts)}"]


def _unit(columns: Sequence[str]) -> str:
    metrics = [metric for column in columns if (metric := find_metric(column)) is not None]
    return "nats per byte" if any(metric.divergence == LOG_RATIO for metric in metrics) else "nats"


def _name(column: str) -> str:
    metric = find_metric(column)
    return column if metric is None else _METRIC[metric.role]


def _one(gain: Gain, unit: str) -> str:
    name = _name(gain.column)
    if gain.interval is None:
        return f"{decimal(gain.value, 3)}{unit} on {name}"
    low, high = gain.interval
    doubt = " (too close to tell)" if low <= 0 <= high else ""
    return f"{decimal(gain.value, 3)} [{decimal(low, 3)}, {decimal(high, 3)}]{unit} on {name}{doubt}"
