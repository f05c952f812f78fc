"""How well the detectors that need no oracle did on these runs, which have one."""

from __future__ import annotations

from collections.abc import Sequence

from thack.detection import Case, Score, score_detectors
from thack.reporting.inputs import JudgedRun
from thack.reporting.numbers import decimal, percent
from thack.reporting.table import DASH, Row, Table, table

ABOUT_SCORES = (
    "Scored against the oracle's verdict. Lead: doublings of the step from the alarm to golden's minimum, so "
    "0 is an alarm at the onset and −1 one at twice its step. Golden at the alarm: above its minimum, median. "
    "By cause: only where golden at equal proxy told it; a cause that a detector named cannot score it. "
    "AUC: how often a run in which golden rises looks worse to the detector than one in which it does not."
)
_LEAST_RUNS = 3  # of each kind, for an area under the curve
_HEAD = ("detector", "alarm", "onsets found", "false alarms", "AUC", "lead", "golden at the alarm", "found by cause")


def detector_scores(runs: Sequence[JudgedRun]) -> Table | None:
    """A row per detector, the best first; None unless golden rose in some runs and not in others."""
    cases = [Case(curves=run.curves, truth=run.verdict) for run in runs if run.verdict.golden]
    if len({case.rises for case in cases} - {None}) < 2:
        return None
    return table(_HEAD, [_row(found) for found in score_detectors(cases)], "stacked")


def _row(found: Score) -> Row:
    return [
        found.detector,
        f"{found.fires} {found.threshold:.3g}",
        f"{found.hits} of {found.num_rising}",
        f"{found.false_alarms} of {found.num_healthy}",
        DASH if found.auc is None or min(found.num_rising, found.num_healthy) < _LEAST_RUNS else f"{found.auc:.2f}",
        DASH if found.median_lead is None else decimal(found.median_lead, sign=True),
        DASH if found.median_rise is None else percent(found.median_rise),
        "; ".join(f"{cause}: {hits} of {rising}" for cause, (hits, rising) in found.by_cause.items()) or DASH,
    ]
