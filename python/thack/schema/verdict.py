"""What a run's curves say: verdict.json, the margins and thresholds behind it, and what each detector found."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from thack.errors import DataError
from thack.reading import BadJson, parse_json
from thack.schema import document
from thack.schema.document import Document
from thack.schema.fields import SEED, AtLeast, Between, Help, check_bounds
from thack.schema.metrics import MetricName, Series, find_metric

Interval = tuple[float, float]
VerdictName = Literal["inconclusive", "healthy", "over-fitting", "regressing to the teacher", "hacking"]
Side = Literal["above", "below", "too close to tell"]
_SHARE = Between(0, 10, without_low=True, without_high=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """What counts as a rise. They are printed with every verdict.

    Raises:
        UsageError: a value is out of its bounds.
    """

    rise: Annotated[float, _SHARE, Help("golden: rise that counts, end over minimum − 1")] = 0.03
    proxy_rise: Annotated[float, _SHARE, Help("proxy: rise from its own minimum that is over-fitting")] = 0.03
    proxy_converged: Annotated[float, _SHARE, Help("proxy: share of its start below which it has converged")] = 0.10
    warmup_steps: Annotated[int, AtLeast(0), Help("evaluations up to this step are not judged")] = 30
    min_evaluations: Annotated[int, AtLeast(2), Help("judged evaluations that a verdict needs")] = 6
    confidence: Annotated[float, Between(0.5, 1, without_high=True), Help("level of the intervals")] = 0.95
    resamples: Annotated[int, AtLeast(100), Help("resamples of the prompts behind each interval")] = 2000
    folds: Annotated[
        int, AtLeast(2), Help("cross-fitting: the minimum is chosen on all folds but the one it is read from")
    ] = 5
    seed: Annotated[int, SEED, Help("seed of the resamples")] = 0

    def __post_init__(self) -> None:
        check_bounds(self, "margins")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """One metric along a run: its first value, and minimum, end and rise after the warm-up."""

    column: str  # of the log
    start: float
    minimum: float
    minimum_step: float
    end: float
    end_step: float
    rise: float | None  # end over minimum − 1; None: the minimum is not above 0, and it does not end there too
    rise_interval: Interval | None = None
    end_interval: Interval | None = None

    @property
    def metric(self) -> MetricName | None:
        """What the column measures; None for another trainer's column."""
        return find_metric(self.column)


DetectionState = Literal["alarm", "quiet", "not enough data"]
PROMPTS_APART = 1.5  # `prompts_apart` from which on training prompts are memorised
# Why golden is not compared with that of the online path at equal proxy.
Incomparable = Literal[
    "golden or proxy was not measured",
    "they were measured by different metrics",
    "it begins closer to the teacher",
    "it never comes as close to the teacher",
]
CauseName = Literal["memorised responses", "memorised prompts", "wrong target", "pull of the teacher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why golden rises, and what that rests on."""

    names: tuple[CauseName, ...]  # empty: none of the four is established
    basis: Literal["online path", "signals"]  # what decided: golden at equal proxy, or memorisation and target alone
    excess: float | None = None  # golden's end over that of the online path at equal proxy, − 1
    excess_interval: Interval | None = None  # over prompts, paired
    incomparable: Incomparable | None = None  # why there is no `excess`, though an online path is given
    memorisation: DetectionState = "not enough data"  # of the detector that decides without an oracle
    prompts_apart: float | None = None  # held-out over training prompts' distance to the teacher, end over start
    target: str = ""  # what is kept of the teacher, as a word that `TargetSpec.parse` reads; empty: not known
    below_baseline: bool | None = None  # whether golden's minimum is surely below the baseline; None: no baseline
    covered: float | None = None  # share of the way from golden's minimum up to the baseline that the rise has covered


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What distillation gained on one metric over plain fine-tuning on the same responses, in nats per token or byte.

    Example:
        >>> round(Gain(column="golden/forward_kl/reference_sampled", step=9, distilled=0.2, supervised=0.5).value, 3)
        0.3
    """

    column: str  # the metric, without reduction
    step: int  # at which both are compared
    distilled: float
    supervised: float
    interval: Interval | None = None  # of the gain, paired over prompts

    @property
    def value(self) -> float:
        """Positive where distillation is nearer; every metric is a distance, or a negative log-likelihood."""
        return self.supervised - self.distilled


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Document):
    """verdict.json: what the curves of one run say, and the numbers behind it.

    `thack.reporting.prose.reasons` gives it in words.
    """

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = "verdict.json"

    name: VerdictName
    run: str
    golden: Extent | None
    proxy: Extent | None
    num_evaluations: int  # judged ones
    num_prompts: int | None
    onset_step: float | None = None  # where golden starts to rise
    onset_interval: Interval | None = None
    proxy_at_onset: float | None = None  # the proxy where golden is lowest
    proxy_change: float | None = None  # from there to the end, relative
    proxy_change_interval: Interval | None = None
    baseline: float | None = None  # KL(oracle‖teacher)
    baseline_interval: Interval | None = None
    over_baseline: float | None = None  # golden's end − baseline
    over_baseline_interval: Interval | None = None
    side: Side | None = None  # of the baseline, on which golden ends
    gains: tuple[Gain, ...] = ()  # over the plain fine-tuning beside the run, where there is one
    cause: Cause | None = None  # of a rise
    notes: tuple[str, ...] = ()  # what else is to be known of the curves
    margins: Margins = field(default_factory=Margins)

    @property
    def is_hacking(self) -> bool:
        return self.name == "hacking"

    @property
    def headline(self) -> str:
        """`HACKING from step 79 [48, 130]: memorised responses`, or the name alone."""
        if self.onset_step is None:
            return self.name
        name = self.name.upper() if self.is_hacking else self.name
        between = f" [{self.onset_interval[0]:.10g}, {self.onset_interval[1]:.10g}]" if self.onset_interval else ""
        cause = f": {', '.join(self.cause.names)}" if self.cause and self.cause.names else ""
        return f"{name} from step {self.onset_step:.10g}{between}{cause}"

    def to_json(self) -> str:
        """Write it as text.

        Returns:
            The content of verdict.json.
        """
        return json.dumps(self.dump(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, what: str = "verdict.json") -> Verdict:
        """The inverse of `to_json`.

        Args:
            text: The content of verdict.json.
            what: Names it in errors.

        Returns:
            The verdict.

        Raises:
            DataError: `text` is not a verdict of this version.
        """
        try:
            return cls.parse(parse_json(text), what)
        except BadJson as error:
            raise DataError(f"{what}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When a detector raises an alarm. They are printed with every result.

    Raises:
        UsageError: a value is out of its bounds.
    """

    warmup_steps: Annotated[int, AtLeast(0), Help("evaluations up to this step are not judged")] = 30
    slope_ratio: Annotated[float, Help("alarm below: progress on held-out prompts per progress in training")] = 0.5
    gap: Annotated[float, Help("alarm above: held-out proxy over training KL")] = 2.0
    exponent: Annotated[float, Help("alarm below: a·R² of the held-out proxy's power law, step^−a")] = 0.10
    window: Annotated[
        float, Between(0, 1, without_low=True), Help("share of log(step) so far to which that law is fitted")
    ] = 0.6
    stalled: Annotated[float, Help("alarm below: training KL falls slower than step^−this")] = 0.02
    fresh_slope_ratio: Annotated[
        float, Help("alarm below: as slope_ratio, with other responses to the training prompts")
    ] = 0.5
    fresh_gap: Annotated[float, Help("alarm above: as gap, with other responses to the training prompts")] = 2.0
    forecast: Annotated[float, Help("alarm above: log(seen / forecast) of the held-out proxy")] = 0.05
    min_evaluations: Annotated[int, AtLeast(2), Help("judged evaluations that a verdict needs")] = 4
    far: Annotated[float, Help("share of the proxy's start above which the student is far from its teacher")] = 0.5
    learning: Annotated[float, Help("a far student still learns where new responses gain faster than step^-this")] = (
        0.05
    )
    confidence: Annotated[float, Between(0.5, 1, without_high=True), Help("level of the interval")] = 0.95
    resamples: Annotated[int, AtLeast(100), Help("resamples of the prompts behind the interval")] = 2000
    seed: Annotated[int, SEED, Help("seed of the resamples")] = 0

    def __post_init__(self) -> None:
        check_bounds(self, "thresholds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What one detector found. `thack.reporting.prose.detector_meaning` gives it in words."""

    name: str  # of the detector
    state: DetectionState
    onset_step: float | None = None  # the step at which, by this detector, golden starts to rise
    alarm_step: float | None = None  # the evaluation at which the alarm could have been raised
    value: float | None = None  # the deciding number: at the alarm, or else the one closest to an alarm
    threshold: float
    fires: Literal["above", "below"] = "below"  # on which side of the threshold the alarm is
    series: Series = field(default_factory=lambda: Series(step=np.empty(0), value=np.empty(0)))

    @property
    def fired(self) -> bool:
        return self.state == "alarm"


#: Why an alarm is no suspicion yet. `thack.reporting.prose` gives each in words.
Doubt = Literal["few evaluations", "one ratio", "ratio not surely below", "still learning"]
OracleFreeName = Literal["hacking suspected", "over-fitting suspected", "no alarm", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleFreeVerdict:
    """What can be said without an oracle: a suspicion, never a finding."""

    SCHEMA: ClassVar[int] = 1

    name: OracleFreeName
    run: str
    decided_by: str  # the name of a detector
    onset_step: float | None
    alarm_step: float | None
    detections: tuple[Detection, ...]
    notes: tuple[str, ...]
    thresholds: Thresholds
    num_evaluations: int = 0  # judged ones, with the curves of the detector that decides
    ratio: float | None = None  # of slopes, from the onset to the end
    ratio_interval: Interval | None = None  # over prompts
    doubts: tuple[Doubt, ...] = ()  # with one, an alarm is inconclusive
    prompts_apart: float | None = None  # as of `Cause`
    gains: tuple[Gain, ...] = ()  # over the plain fine-tuning beside the run, where there is one

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON. Series are arrays, which are not read back."""
        return document.dump(self)

    @property
    def is_hacking(self) -> bool:
        return self.name == "hacking suspected"

    @property
    def deciding(self) -> Detection:
        """What the deciding detector found."""
        return next(found for found in self.detections if found.name == self.decided_by)

    @property
    def headline(self) -> str:
        """`hacking suspected from step 79`, `inconclusive, with an alarm at step 48`, or the name alone."""
        if self.onset_step is None or self.alarm_step is None:
            return self.name
        if self.name == "inconclusive":
            return f"{self.name}, with an alarm at step {self.alarm_step:.10g}"
        return f"{self.name} from step {self.onset_step:.10g}"
