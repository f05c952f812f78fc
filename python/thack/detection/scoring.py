"""How good is a detector that needs no oracle? It is scored on runs with one, against the verdict.

A run is *rising* where golden rises by the verdict (hacking, over-fitting, regressing to the teacher), *healthy* where
the verdict says so; inconclusive ones are left out. A detector's number for a run is its most suspicious value along
it: one threshold decides, and all thresholds give the ROC curve.

*Lead* is how much earlier than golden's minimum the alarm came, in powers of two of the step: +1 at half the step, −1
at twice the step. An alarm comes at an evaluation, so a lead is never finer than their spacing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from thack.detection.curves import Curves
from thack.detection.detectors import DETECTORS, Detector
from thack.detection.signals import Signal
from thack.detection.verdict_table import verdict
from thack.errors import UsageError
from thack.schema import document
from thack.schema.targets import find_target
from thack.schema.verdict import Detection, Margins, Thresholds, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run with golden, and its verdict.

    Attributes:
        curves: The run.
        truth: Its verdict by golden.

    Example:
        >>> Case.of(Curves.from_run(run)).rises
        True
    """

    curves: Curves
    truth: Verdict

    @classmethod
    def of(cls, curves: Curves, margins: Margins | None = None) -> Case:
        if not curves.has("golden"):
            raise UsageError(
                f"{curves.name} has no golden metric: a detector is scored against the oracle's verdict",
                hint="distill with an oracle and an evaluation set",
            )
        return cls(curves=curves, truth=verdict(curves, margins))

    @property
    def rises(self) -> bool | None:
        """Whether golden rises; None where the verdict is inconclusive."""
        return None if self.truth.name == "inconclusive" else self.truth.name != "healthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One detector at one threshold on a set of runs."""

    detector: str
    threshold: float
    fires: Literal["above", "below"]
    num_rising: int
    num_healthy: int
    hits: int
    false_alarms: int
    silent: int  # decided runs on which the detector had not enough data; they count as no alarm
    auc: float | None  # share of (rising, healthy) pairs in the right order; ties count half
    roc: tuple[tuple[float, float], ...]  # (false-alarm rate, hit rate), from (0, 0) to (1, 1)
    leads: tuple[float, ...]  # log2(onset / alarm step) per hit
    rises: tuple[float, ...]  # golden at the alarm over its minimum, − 1, per hit
    by_cause: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # hits and rising runs, by cause

    @property
    def misses(self) -> int:
        return self.num_rising - self.hits

    @property
    def accuracy(self) -> float:
        """The mean of hit rate and 1 − false-alarm rate, whatever the mix of runs."""
        hit = self.hits / self.num_rising if self.num_rising else 1.0
        false = self.false_alarms / self.num_healthy if self.num_healthy else 0.0
        return (hit + 1 - false) / 2

    @property
    def median_lead(self) -> float | None:
        return float(np.median(self.leads)) if self.leads else None

    @property
    def median_rise(self) -> float | None:
        return float(np.median(self.rises)) if self.rises else None

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self) | {"misses": self.misses, "accuracy": self.accuracy, "median_lead": self.median_lead}


def score_detectors(
    cases: Sequence[Case], thresholds: Thresholds | None = None, detectors: Sequence[Detector] = DETECTORS
) -> tuple[Score, ...]:
    """Score detectors that need no oracle on runs with one.

    Args:
        cases: Runs with golden; those whose verdict is inconclusive are left out.
        thresholds: By default `Thresholds()`.
        detectors: By default all.

    Returns:
        Their scores, the best first: by accuracy, then area under the ROC curve, then lead.

    Example:
        >>> best = score_detectors([Case.of(Curves.from_run(run))])[0]
        >>> best.detector, best.hits, best.num_rising
        ('fresh slope ratio', 1, 1)
    """
    found = [score(detector, cases, thresholds or Thresholds()) for detector in detectors]
    return tuple(sorted(found, key=_rank, reverse=True))  # stable: equals keep the detectors' order


def _rank(found: Score) -> tuple[float, float, float]:
    lead = found.median_lead
    return found.accuracy, found.auc or 0.0, -np.inf if lead is None else lead


def score(detector: Detector, cases: Sequence[Case], thresholds: Thresholds) -> Score:
    """Hits, false alarms, ROC and leads of one detector."""
    decided = [case for case in cases if case.rises is not None]
    found = [detector.signal(case.curves, thresholds) for case in decided]
    detections = [detector.judge(one, thresholds) for one in found]
    rises_R = np.array([bool(case.rises) for case in decided], dtype=bool)
    fired_R = np.array([found.fired for found in detections], dtype=bool)
    worst_R = np.array([worst_value(detector, one) for one in found])
    hits = [(c, d) for c, d in zip(decided, detections, strict=True) if c.rises and d.fired]
    return Score(
        detector=detector.name,
        threshold=float(getattr(thresholds, detector.key)),
        fires=detector.fires,
        num_rising=int(rises_R.sum()),
        num_healthy=int((~rises_R).sum()),
        hits=int((rises_R & fired_R).sum()),
        false_alarms=int((~rises_R & fired_R).sum()),
        silent=sum(1 for one in detections if one.state == "not enough data"),
        auc=area(worst_R, rises_R),
        roc=roc_curve(worst_R, rises_R),
        leads=tuple(float(np.log2(_onset(case) / (one.alarm_step or 1.0))) for case, one in hits),
        rises=tuple(_rise_at(case, one.alarm_step or 0.0) for case, one in hits),
        by_cause=_by_cause(decided, detections),
    )


def _by_cause(decided: Sequence[Case], detections: Sequence[Detection]) -> dict[str, tuple[int, int]]:
    """Hits and rising runs for each cause that golden at equal proxy has shown.

    A cause that a detector's alarm had a part in would score the detector against itself. So one that rests on signals
    of the run is left out, and runs on a biased target count together, whatever was named.
    """
    found: dict[str, tuple[int, int]] = {}
    for case, detection in zip(decided, detections, strict=True):
        cause = case.truth.cause
        if cause is not None and cause.basis == "online path":
            spec = find_target(cause.target)
            name = "a biased target" if spec and spec.biased else ", ".join(cause.names) or "another cause"
            hits, rising = found.get(name, (0, 0))
            found[name] = (hits + detection.fired, rising + 1)
    return found


def worst_value(detector: Detector, found: Signal) -> float:
    """The most suspicious value along the run, more being worse; −inf where there is none."""
    return float(detector.towards(found.series.value).max()) if len(found) else -np.inf


def choose_threshold(detector: Detector, cases: Sequence[Case], thresholds: Thresholds | None = None) -> float | None:
    """The threshold that is most often right, and among those the one that alarms soonest, but not before the onset.

    Choose it on some tasks or seeds, and score it on others.

    Args:
        detector: Whose threshold it is.
        cases: Runs with golden, some of which rise and some of which are healthy.
        thresholds: What the signal reads beside its own threshold; by default `Thresholds()`.

    Returns:
        The middle of the range of such thresholds; None unless there are rising and healthy runs.

    Example:
        >>> choose_threshold(DETECTORS[0], [Case.of(Curves.from_run(run))]) is None  # none of them is healthy
        True
    """
    limits = thresholds or Thresholds()
    decided = [(case, detector.signal(case.curves, limits)) for case in cases if case.rises is not None]
    if len({case.rises for case, _ in decided}) < 2:
        return None
    values = np.unique(np.concatenate([detector.towards(found.series.value) for _, found in decided]))
    cuts = [float(low + high) / 2 for low, high in pairwise(values)]
    worth = [_worth(detector, decided, cut) for cut in cuts]
    if not worth:
        return None
    best = [i for i, found in enumerate(worth) if found == max(worth)]
    # The first run of neighbours that are equally good, from its lower to its upper neighbour.
    last = next((i for i, j in pairwise(best) if j != i + 1), best[-1])
    chosen = float(values[best[0]] + values[last + 1]) / 2
    return chosen if detector.fires == "above" else -chosen


def _worth(detector: Detector, decided: Sequence[tuple[Case, Signal]], cut: float) -> tuple[float, float]:
    """Accuracy, and the median lead as far as it is a lag: an alarm before the onset is worth one at the onset."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    leads = []
    for case, found in decided:
        beyond = np.flatnonzero(detector.towards(found.series.value) > cut)
        right[bool(case.rises)].append((len(beyond) > 0) == case.rises)
        if case.rises and len(beyond):
            leads.append(min(0.0, float(np.log2(_onset(case) / found.series.step[beyond[0]]))))
    accuracy = float(np.mean([np.mean(found) for found in right.values()]))
    return round(accuracy, 9), float(np.median(leads)) if leads else -np.inf


def with_chosen(cases: Sequence[Case], thresholds: Thresholds | None = None) -> Thresholds:
    """Thresholds of all detectors by `choose_threshold`.

    Args:
        cases: Runs with golden.
        thresholds: What stays where a threshold cannot be chosen; by default `Thresholds()`.

    Returns:
        The thresholds, and everything else as it was.

    Example:
        >>> with_chosen([Case.of(Curves.from_run(run))]) == Thresholds()  # no healthy run to choose by
        True
    """
    limits = thresholds or Thresholds()
    found = {detector.key: choose_threshold(detector, cases, limits) for detector in DETECTORS}
    for key, value in found.items():
        limits = limits if value is None else replace(limits, **{key: value})  # type: ignore[arg-type]  # of floats
    return limits


def roc_curve(worst_R: np.ndarray, rises_R: np.ndarray) -> tuple[tuple[float, float], ...]:
    """(false-alarm rate, hit rate) as the threshold falls past each value."""
    if rises_R.all() or not rises_R.any():
        return ()
    cuts = np.unique(worst_R)[::-1]
    points = [(float(np.mean(worst_R[~rises_R] >= c)), float(np.mean(worst_R[rises_R] >= c))) for c in cuts]
    return ((0.0, 0.0), *points)


def area(worst_R: np.ndarray, rises_R: np.ndarray) -> float | None:
    """The area under the ROC curve, as the share of pairs in the right order."""
    if rises_R.all() or not rises_R.any():
        return None
    rising_R1, healthy_H = worst_R[rises_R][:, None], worst_R[~rises_R]
    return float(np.mean((rising_R1 > healthy_H) + 0.5 * (rising_R1 == healthy_H)))


def _onset(case: Case) -> float:
    assert case.truth.golden is not None
    return case.truth.golden.minimum_step


def _rise_at(case: Case, step: float) -> float:
    golden = case.curves.of("golden")
    assert case.truth.golden is not None
    at = min(int(np.searchsorted(golden.step, step)), len(golden) - 1)  # an alarm after golden's last value
    return float(golden.value[at] / case.truth.golden.minimum - 1)
