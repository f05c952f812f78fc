"""The names of metric columns.

Nothing else in the package takes a column's name apart, or puts one together. Parts are separated by `/`:

    golden/forward_kl/reference_sampled/token_mean
    human/negative_log_likelihood/reference_sampled/sequence_sum/low

    metric      golden | proxy | judge | human        the student against the oracle | the teacher | a judge |
                                                      human responses
                baseline | judge_baseline | human_baseline
                                                      the teacher in the student's place, as KL(oracle‖teacher)
    divergence  forward_kl | reverse_kl | jsd         KL(reference‖model), KL(model‖reference), JSD at β = ½
                log_ratio                             log P(y) − log Q(y) of the response, P who wrote it: each in
                                                      its own ids, so that tokenizers may differ
                negative_log_likelihood               of human responses, which have no distribution
    responses   reference_sampled | student_sampled   the reference's fixed responses | the measured model's own
    reduction   token_mean | byte_mean | sequence_sum
                                                      Σ nats / Σ tokens | Σ nats / Σ bytes of text | mean over prompts
                                                      of the sum per response; absent in per_prompt.jsonl, which holds
                                                      the sums
    bound       low | high                            of the 95 % interval; absent for the value itself
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from thack.errors import DataError

DivergenceName = Literal["forward_kl", "reverse_kl", "jsd", "log_ratio", "negative_log_likelihood"]
Responses = Literal["reference_sampled", "student_sampled"]
Reduction = Literal["token_mean", "byte_mean", "sequence_sum"]
Bound = Literal["low", "high"]

LIKELIHOOD: Final = "negative_log_likelihood"
LOG_RATIO: Final = "log_ratio"
DIVERGENCES: tuple[DivergenceName, ...] = ("forward_kl", "reverse_kl", "jsd")  # between two models, id by id
RESPONSES: tuple[Responses, ...] = get_args(Responses)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
BOUNDS: tuple[Bound, ...] = get_args(Bound)


class Role(StrEnum):
    """What a model, or a set of human responses, is to the student."""

    ORACLE = "oracle"
    TEACHER = "teacher"
    JUDGE = "judge"  # a stronger model in the oracle's place
    HUMAN = "human"  # responses that people wrote; no model


#: The metric of the student against each role, and of the teacher in the student's place.
METRIC_OF: Mapping[Role, str] = {
    Role.ORACLE: "golden",
    Role.TEACHER: "proxy",
    Role.JUDGE: "judge",
    Role.HUMAN: "human",
}
BASELINE_OF: Mapping[Role, str] = {
    Role.ORACLE: "baseline",
    Role.JUDGE: "judge_baseline",
    Role.HUMAN: "human_baseline",
}
_HEALTH = "health"
_POSITIONS = re.compile(r"tokens_(?P<first>\d+)_(?P<last>\d+|up)")
_ROLE_OF = {name: (role, False) for role, name in METRIC_OF.items()} | {
    name: (role, True) for role, name in BASELINE_OF.items()
}


def reductions(divergence: DivergenceName) -> tuple[Reduction, ...]:
    """The reductions that a divergence has. A log ratio is not of the tokens of one of the two models."""
    if divergence == LIKELIHOOD:
        return REDUCTIONS
    return ("byte_mean", "sequence_sum") if divergence == LOG_RATIO else ("token_mean", "sequence_sum")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricName:
    """A metric column. The defaults are the metric that a verdict reads: forward KL on fixed responses.

    Example:
        >>> str(MetricName(role=Role.ORACLE))
        'golden/forward_kl/reference_sampled/token_mean'
        >>> MetricName.parse("proxy/jsd/student_sampled/sequence_sum/low").role
        <Role.TEACHER: 'teacher'>
    """

    role: Role  # of the reference
    divergence: DivergenceName = "forward_kl"
    responses: Responses = "reference_sampled"
    reduction: Reduction | None = "token_mean"  # None: sums per prompt
    baseline: bool = False  # the teacher is measured in the student's place
    bound: Bound | None = None

    def __post_init__(self) -> None:
        if self.baseline and self.role not in BASELINE_OF:
            raise DataError(f"the {self.role} has no baseline: its distance from itself is 0")
        if (self.role is Role.HUMAN) != (self.divergence == LIKELIHOOD):
            raise DataError(f"{self.role} responses and {self.divergence} do not go together")
        if self.reduction not in (None, *reductions(self.divergence)):
            raise DataError(f"{self.divergence} and {self.reduction} do not go together")

    @classmethod
    def parse(cls, column: str) -> MetricName:
        """The inverse of `str`.

        Raises:
            DataError: `column` is not the name of a metric.
        """
        found = find_metric(column)
        if found is None:
            raise DataError(
                f"{column!r} is not a metric column",
                details=["it has the form <metric>/<divergence>/<responses>/<reduction>"],
                hint=f"for example: {cls(role=Role.ORACLE)}",
            )
        return found

    def __str__(self) -> str:
        metric = (BASELINE_OF if self.baseline else METRIC_OF)[self.role]
        parts = [metric, self.divergence, self.responses, self.reduction, self.bound]
        return "/".join(part for part in parts if part is not None)

    @property
    def per_prompt(self) -> MetricName:
        """The column of per_prompt.jsonl that this one is computed from."""
        return replace(self, reduction=None, bound=None)

    def against(self, role: Role) -> MetricName:
        """The metric that takes this one's place where the reference is `role`."""
        if role is Role.HUMAN:
            return replace(self, role=role, divergence=LIKELIHOOD, responses="reference_sampled")
        return replace(self, role=role)

    @property
    def per_byte(self) -> MetricName:
        """The metric that takes this one's place where tokenizers differ."""
        divergence: DivergenceName = LIKELIHOOD if self.role is Role.HUMAN else LOG_RATIO
        return replace(self, divergence=divergence, reduction="byte_mean")

    @property
    def of_baseline(self) -> MetricName | None:
        """The teacher's value of this metric of the student; None where the teacher is the reference."""
        return replace(self, baseline=True) if self.role in BASELINE_OF else None


GOLDEN = MetricName(role=Role.ORACLE)
PROXY = MetricName(role=Role.TEACHER)


def proxy_in(columns: Mapping[str, float]) -> float | None:
    """The proxy among the columns of an evaluation, by name: per byte where the tokenizers differ; None: neither."""
    return columns.get(str(PROXY), columns.get(str(PROXY.per_byte)))


@lru_cache(maxsize=4096)
def find_metric(column: str) -> MetricName | None:
    """The metric that a column is; None for any other column, such as another trainer's."""
    metric, *parts = column.split("/")
    if metric not in _ROLE_OF or not 2 <= len(parts) <= 4:
        return None
    accepted: list[Sequence[str]] = [get_args(DivergenceName), RESPONSES, REDUCTIONS, BOUNDS]
    if any(part not in known for part, known in zip(parts, accepted, strict=False)):
        return None
    role, baseline = _ROLE_OF[metric]
    names = ("divergence", "responses", "reduction", "bound")
    values = {"reduction": None} | dict(zip(names, parts, strict=False))
    try:
        return MetricName(role=role, baseline=baseline, **values)  # type: ignore[arg-type]  # checked above
    except DataError:
        return None


def unit_of(column: str) -> str:
    """What the values of a column are in. Another trainer's are taken for nats per token.

    Example:
        >>> unit_of("golden/log_ratio/reference_sampled/byte_mean")
        'nats per byte'
    """
    metric = find_metric(column)
    names: dict[Reduction, str] = {"byte_mean": "byte", "sequence_sum": "response"}
    name = "token" if metric is None or metric.reduction is None else names.get(metric.reduction, "token")
    return f"nats per {name}"


def is_bound(column: str) -> bool:
    """Whether a column is one end of a metric's interval."""
    metric = find_metric(column)
    return metric is not None and metric.bound is not None


#: The curves of one run that a verdict, or a detector, reads.
CurveName = Literal["golden", "proxy", "baseline", "monitor", "fresh", "train_loss"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One column over the steps at which it was logged."""

    step: Floats
    value: Floats

    def __len__(self) -> int:
        return len(self.step)


class TrainingKL(StrEnum):
    """KL(teacher‖student) on fixed responses to training prompts, in nats per token: for the detectors.

    Where tokenizers differ, of cells, in nats per row where a token of both begins.
    """

    MONITOR = "train_kl/monitor"  # the responses that are trained on
    FRESH = "train_kl/fresh"  # other responses of the teacher to the same prompts, never trained on


def cache_kl(number: int) -> str:
    """The column of one of several caches, counted from 1 as they are given: KL(its teacher‖student) by its records.

    Example:
        >>> cache_kl(1)
        'train_kl/cache_1'
    """
    return f"train_kl/cache_{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthName:
    """A column beside the metrics: does the student ramble, repeat itself, or grow too sure?

    Example:
        >>> str(HealthName(quantity="entropy", role=Role.ORACLE))
        'health/golden/entropy/reference_sampled'
        >>> str(HealthName(quantity="forward_kl", role=Role.TEACHER, positions=(64, None)))
        'health/proxy/forward_kl/tokens_64_up/reference_sampled'
        >>> str(HealthName(quantity="repeated_share"))
        'health/repeated_share/student_sampled'
    """

    quantity: str
    role: Role | None = None  # whose fixed responses; None: the student's own responses
    positions: tuple[int, int | None] | None = None  # first and last position in the response; None: all

    def __str__(self) -> str:
        metric = [] if self.role is None else [METRIC_OF[self.role]]
        responses: Responses = "student_sampled" if self.role is None else "reference_sampled"
        return "/".join([_HEALTH, *metric, self.quantity, *self._positions(), responses])

    def _positions(self) -> list[str]:
        if self.positions is None:
            return []
        first, last = self.positions
        return [f"tokens_{first}_{'up' if last is None else last}"]


Column = MetricName | HealthName | TrainingKL


@lru_cache(maxsize=4096)
def find_column(text: str) -> Column | None:
    """The column of an evaluation that a text names; None for any other text."""
    if text in list(TrainingKL):
        return TrainingKL(text)
    return _find_health(text) if text.startswith(f"{_HEALTH}/") else find_metric(text)


def _find_health(text: str) -> HealthName | None:
    parts = text.split("/")[1:-1]
    role = _ROLE_OF[parts[0]][0] if parts and parts[0] in _ROLE_OF else None
    quantity, *rest = (parts[1:] if role is not None else parts) or [""]
    span = _POSITIONS.fullmatch(rest[0]) if rest else None
    positions = None if span is None else (int(span["first"]), None if span["last"] == "up" else int(span["last"]))
    found = HealthName(quantity=quantity, role=role, positions=positions)
    return found if str(found) == text else None
