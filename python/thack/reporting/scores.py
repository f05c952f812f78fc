"""How well the detectors that need no oracle did on these runs, which have one."""

from __future__ import annotations

from thack.detection import Case, score_detectors
from thack.reporting.html import table, tag, text
from thack.reporting.prose import percent
from thack.reporting.runs import Subject
from thack.reporting.tables import DASH


def detector_scores(subject: Subject) -> str:
    """A line per detector, the best first; empty unless some runs turned and others did not."""
    cases = [Case(curves=run.curves, truth=run.verdict) for run in subject.runs if run.verdict.golden]
    if len({case.turned for case in cases} - {None}) < 2:
        return ""
    rows = []
    for found in score_detectors(cases):
        rows.append(
            [
                text(found.detector),
                f"{found.threshold:.3g}",
                f"{found.hits} of {found.num_turned}",
                f"{found.false_alarms} of {found.num_sound}",
                DASH if found.auc is None else f"{found.auc:.2f}",
                DASH if found.median_lead is None else f"{found.median_lead:+.2f}".replace("-", "−"),
                DASH if found.median_rise is None else percent(found.median_rise),
            ]
        )
    head = ["detector", "alarm at", "turns found", "false alarms", "AUC", "lead", "golden at the alarm"]
    note = (
        "Scored against the oracle's verdict. Lead: doublings of the step from the alarm to golden's minimum, so "
        "0 is an alarm at the turn and −1 one at twice its step. Golden at the alarm: above its minimum, median. "
        "AUC: how often a run that turned looks worse to the detector than one that did not."
    )
    return table(head, rows, class_="stacked") + tag("p", text(note), class_="note")
