"""Tables to look things up in: settings, environments, and every metric column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from thack.detection import Curves
from thack.errors import plural
from thack.reporting.inputs import COSTS, ArmRuns, ReportInput, typed
from thack.reporting.numbers import percent
from thack.reporting.table import DASH, Cell, Row, Span, Table, code, table
from thack.schema.metrics import Floats, cache_kl, is_bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """A table under a title that opens it."""

    title: str
    table: Table


def differing_settings(report: ReportInput) -> Table | None:
    """The settings in which the arms differ, side by side; None if they differ in none."""
    differing, _ = _keys(report)
    rows: list[Row] = [[code(key), *(_values(arm, key) for arm in report.arms)] for key in differing]
    return table(["setting", *(arm.name for arm in report.arms)], rows) if rows else None


def shared_settings(report: ReportInput) -> Folded | None:
    """The settings that are the same in all runs; None if no run has settings."""
    runs = [run for run in report.runs if run.config]
    if not runs:
        return None
    _, shared = _keys(report)
    title = plural(len(shared), "setting") + " that all runs share" * (len(runs) > 1)
    return Folded(title=title, table=facts("setting", {key: runs[0].config[key] for key in shared}))


def _keys(report: ReportInput) -> tuple[list[str], list[str]]:
    """Those in which runs differ, and those in which they do not."""
    configs = [run.config for run in report.runs if run.config]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    differing = [key for key in keys if len({typed(config.get(key, "")) for config in configs}) > 1]
    return differing, [key for key in keys if key not in differing]


def _values(arm: ArmRuns, key: str) -> Cell:
    """A setting of an arm: its value, or its seeds' values as long as they can be read."""
    found = list(dict.fromkeys(typed(run.config.get(key, "")) or DASH for run in arm.runs))
    if len(found) > 1 and sum(map(len, found)) > 200:
        return (Span(f"{len(found)} values"),)
    spans = [Span(value, "plain" if value == DASH else "code") for value in found]
    return tuple(one for span in spans for one in (Span(", "), span))[1:]


def facts(name: str, values: Mapping[str, object]) -> Table:
    """Keys and values, one a row."""
    return table(
        [name, "value"], [[code(key), code(typed(value)) if typed(value) else DASH] for key, value in values.items()]
    )


def caches(report: ReportInput) -> list[Folded]:
    """What each of the caches holds and has cost, and how far the student is from its teacher; one table a run."""
    head = [
        "cache",
        "teacher",
        "sequences",
        "tokens",
        "bytes",
        "seconds",
        "KL(teacher‖student) at the start",
        "at the end",
    ]
    found: list[Folded] = []
    for run in report.runs:
        each = () if run.facts is None else run.facts.caches
        rows: list[Row] = [
            [
                code(one.path),
                code(one.teacher),
                *(f"{count:,}" for count in (one.costs.sequences, one.costs.tokens, one.costs.bytes)),
                DASH if one.costs.seconds is None else f"{one.costs.seconds:,.0f}",
                *_ends(run.curves.columns.get(cache_kl(number))),
            ]
            for number, one in enumerate(each, start=1)
        ]
        if rows:
            found.append(Folded(title=f"{plural(len(rows), 'cache')} of {run.label}", table=table(head, rows)))
    return found


def _ends(value_E: Floats | None) -> tuple[str, str]:
    """The first and the last finite value."""
    seen_E = np.empty(0) if value_E is None else value_E[np.isfinite(value_E)]
    return (f"{seen_E[0]:.4g}", f"{seen_E[-1]:.4g}") if len(seen_E) else (DASH, DASH)


def environments(report: ReportInput) -> list[Folded]:
    """Each environment of the runs, once."""
    found = list({typed(dict(run.environment)): run.environment for run in report.runs if run.environment}.values())
    many = len(found) > 1
    return [
        Folded(title=f"environment {number} of {len(found)}" if many else "environment", table=facts("fact", values))
        for number, values in enumerate(found, start=1)
    ]


def columns(report: ReportInput) -> list[Folded]:
    """Every metric column of every run: start, minimum and its step, end, rise."""
    head = ["column", "start", "minimum", "at step", "end", "rise"]
    found = []
    for run in report.runs:
        rows = [row for column in _metric_columns(run.curves) if (row := _column(run.curves, column))]
        found.append(
            Folded(title=f"{plural(len(rows), 'column')} of {run.label}", table=table(head, rows, "numbers wide"))
        )
    return found


def _metric_columns(curves: Curves) -> list[str]:
    skipped = {"epoch", "step", *COSTS}
    return [column for column in curves.columns if not is_bound(column) and column not in skipped]


def _column(curves: Curves, column: str) -> Row | None:
    value_E = curves.columns[column]
    seen = np.flatnonzero(np.isfinite(value_E))
    if not len(seen):
        return None
    lowest = seen[np.argmin(value_E[seen])]
    start, low, end = (float(value_E[at]) for at in (seen[0], lowest, seen[-1]))
    rise = percent(end / low - 1) if low > 0 else DASH
    return [code(column), f"{start:.4g}", f"{low:.4g}", f"{curves.step_E[lowest]:.10g}", f"{end:.4g}", rise]
