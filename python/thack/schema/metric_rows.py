"""The rows of metrics.jsonl and per_prompt.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from thack.errors import DataError
from thack.schema import document
from thack.schema.metrics import Column, Floats, MetricName, Reduction, TrainingKL, find_column, find_metric, proxy_in


def counted(tokens: np.ndarray, num_bytes: np.ndarray | None, reduction: Reduction | None) -> Floats:
    """What nats are divided by, of any shape: tokens, bytes, or one per response that has tokens."""
    if reduction == "byte_mean":
        assert num_bytes is not None, "bytes were not counted"
        return num_bytes.astype(np.float64)
    return (tokens > 0 if reduction == "sequence_sum" else tokens).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptSums:
    """Sums over each prompt's response, before any reduction; P prompts in the evaluation set's order."""

    nats_P: np.ndarray  # float64
    tokens_P: np.ndarray  # int64, of who wrote it; 0: the response is left out
    bytes_P: np.ndarray | None = None  # int64, of its text; None: not counted

    @property
    def token_mean(self) -> float:
        """Σ nats / Σ tokens."""
        return self.mean("token_mean")

    def mean(self, reduction: Reduction) -> float:
        """Σ nats / Σ of what the reduction counts."""
        return float(self.nats_P.sum() / self.counts_P(reduction).sum())

    def counts_P(self, reduction: Reduction | None) -> np.ndarray:
        """float64 [P] what the nats are divided by: tokens, bytes, or one per response that is not left out."""
        return counted(self.tokens_P, self.bytes_P, reduction)

    def has(self, reduction: Reduction) -> bool:
        """Whether it is counted, and not 0 over all prompts."""
        return (reduction != "byte_mean" or self.bytes_P is not None) and bool(self.counts_P(reduction).any())

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        found: dict[str, object] = {"nats": self.nats_P.tolist(), "tokens": self.tokens_P.tolist()}
        return found if self.bytes_P is None else {**found, "bytes": self.bytes_P.tolist()}

    @classmethod
    def parse(cls, raw: object, what: str = "a metric") -> PromptSums:
        """The inverse of `dump`.

        Raises:
            DataError: `raw` does not hold as many numbers of nats as of tokens.
        """
        if isinstance(raw, Mapping):
            nats, tokens, size = raw.get("nats"), raw.get("tokens"), raw.get("bytes", raw.get("tokens"))
            lists = [one for one in (nats, tokens, size) if isinstance(one, list)]
            if len(lists) == 3 and 0 < len(lists[0]) == len(lists[1]) == len(lists[2]):
                with suppress(TypeError, ValueError):
                    bytes_P = np.asarray(size, dtype=np.int64) if "bytes" in raw else None
                    nats_P, tokens_P = np.asarray(nats, dtype=np.float64), np.asarray(tokens, dtype=np.int64)
                    return cls(nats_P=nats_P, tokens_P=tokens_P, bytes_P=bytes_P)
        raise DataError(f"{what} does not hold the nats and the tokens of every prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerPromptRow:
    """One line of per_prompt.jsonl: what every prompt contributed to each metric of one evaluation."""

    step: int | None  # None: an evaluation outside training
    metrics: Mapping[MetricName, PromptSums]
    training: Mapping[TrainingKL, PromptSums] = field(default_factory=dict)  # the same of training prompts

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        both = (*self.metrics.items(), *self.training.items())
        return {"step": self.step, **{str(name): sums.dump() for name, sums in both}}

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> PerPromptRow:
        """The inverse of `dump`; columns that are not metrics are left out.

        Raises:
            DataError: a metric does not hold the nats and tokens of every prompt.
        """
        metrics = {
            name: PromptSums.parse(value, column)
            for column, value in raw.items()
            if (name := find_metric(column)) is not None
        }
        training = {name: PromptSums.parse(raw[name], name) for name in TrainingKL if name in raw}
        step = number(raw.get("step"))
        return cls(step=None if step is None else int(step), metrics=metrics, training=training)


Event = Literal["train", "evaluation", "guard"]
EVENTS: tuple[Event, ...] = get_args(Event)
GuardAction = Literal["alarm", "refresh", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRow:
    """One line of metrics.jsonl: a training step, or an evaluation."""

    event: Literal["train", "evaluation"]
    step: int
    epoch: float | None = None
    columns: Mapping[Column, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)  # every other number: loss, costs

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        known: dict[str, object] = {"event": self.event, "step": self.step}
        known |= {} if self.epoch is None else {"epoch": self.epoch}
        return {**known, **{str(name): value for name, value in self.columns.items()}, **self.values}

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> MetricsRow:
        """The inverse of `dump`. A number that was not finite is NaN; what is no number is left out.

        Raises:
            DataError: the row is not of training or an evaluation, or has no step.
        """
        event, step = raw.get("event"), number(raw.get("step"))
        if (event != "train" and event != "evaluation") or step is None:
            raise DataError(f"not a row of training or evaluation: event {event!r}, step {raw.get('step')!r}")
        columns: dict[Column, float] = {}
        values: dict[str, float] = {}
        for key, value in raw.items():
            found = math.nan if value is None else number(value)
            if found is None or key in ("event", "step", "epoch"):
                continue
            name = find_column(key)
            if name is None:
                values[key] = found
            else:
                columns[name] = found
        return cls(event=event, step=int(step), epoch=number(raw.get("epoch")), columns=columns, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRow:
    """One line of metrics.jsonl: what a guard did."""

    step: int
    action: GuardAction
    # of an alarm
    detector: str | None = None
    value: float | None = None
    threshold: float | None = None
    onset_step: float | None = None
    meaning: str | None = None
    kept_step: int | None = None
    # of a refresh
    epoch: int | None = None
    fresh_set: int | None = None
    fresh_tokens: int | None = None

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        given = {name: value for name, value in document.dump(self).items() if value is not None}
        return {"event": "guard", **given}

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> GuardRow:
        """The inverse of `dump`.

        Raises:
            DataError: the row is not of a guard.
        """
        return document.parse(cls, raw, "a row of a guard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a running training knows at one evaluation: for the detector that a guard asks."""

    step: int
    monitor: float | None = None
    fresh: float | None = None
    proxy: float | None = None

    @classmethod
    def of(cls, step: int, columns: Mapping[str, float]) -> Watched:
        """From the columns of an evaluation at `step`, by name."""
        monitor, fresh = columns.get(TrainingKL.MONITOR), columns.get(TrainingKL.FRESH)
        return cls(step=step, monitor=monitor, fresh=fresh, proxy=proxy_in(columns))


_MOST_NUMBER = 1e100  # of a log: differences and squares of larger ones overflow


def number(value: object) -> float | None:
    """The number that a value of a log is, up to 1e100; None for NaN, infinities, truth values and everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= _MOST_NUMBER else None
