"""Health beside the metrics: does the student ramble, repeat itself, or grow too sure?"""

from __future__ import annotations

import numpy as np

from thack.reporting.inputs import ArmRuns, JudgedRun, ReportInput
from thack.reporting.table import Row, Table, table

# column → its heading, and how its number is written
_COLUMNS = {
    "health/response_tokens/student_sampled": ("response length, tokens", "{:.1f}"),
    "health/truncated_share/student_sampled": ("responses cut at the maximum", "{:.1%}"),
    "health/repeated_share/student_sampled": ("repeated 4-grams", "{:.1%}"),
    "health/entropy/student_sampled": ("entropy, nats", "{:.2f}"),
    "health/golden/top_10_overlap/reference_sampled": ("top 10 shared with the oracle", "{:.1%}"),
    "health/proxy/top_10_overlap/reference_sampled": ("top 10 shared with the teacher", "{:.1%}"),
    "health/golden/calibration_error/reference_sampled": ("calibration error to the oracle", "{:.1%}"),
    "health/proxy/calibration_error/reference_sampled": ("calibration error to the teacher", "{:.1%}"),
    "health/golden/left_out_share/reference_sampled": ("not compared with the oracle, of its tokens", "{:.1%}"),
    "health/proxy/left_out_share/reference_sampled": ("not compared with the teacher, of its tokens", "{:.1%}"),
    "health/proxy/expert_load_max/reference_sampled": ("busiest expert, over an even share", "{:.2f}"),
    "health/proxy/idle_experts/reference_sampled": ("idle experts", "{:.1%}"),
}


ABOUT_HEALTH = "At golden’s minimum → at the end; without golden, at the first evaluation → at the end."


def health_table(report: ReportInput) -> Table | None:
    """At golden's minimum → at the end, medians over seeds; None if no run measured it."""
    present = [column for column in _COLUMNS if any(column in run.curves.columns for run in report.runs)]
    rows: list[Row] = [[arm.name, *(_cell(arm, column) for column in present)] for arm in report.arms]
    rows = [row for row in rows if any(row[1:])]
    return table(["arm", *(_COLUMNS[column][0] for column in present)], rows, "stacked") if present else None


def _cell(arm: ArmRuns, column: str) -> str:
    pairs = [pair for run in arm.runs if (pair := _then_and_end(run, column)) is not None]
    if not pairs:
        return ""
    form = _COLUMNS[column][1]
    then, end = (form.format(float(np.median(values))) for values in zip(*pairs, strict=True))
    return f"{then} → {end}".replace("%", " %")


def _then_and_end(run: JudgedRun, column: str) -> tuple[float, float] | None:
    value_E = run.curves.columns.get(column)
    if value_E is None or not np.isfinite(value_E).any():
        return None
    seen = np.flatnonzero(np.isfinite(value_E))
    golden = run.verdict.golden
    turn = golden.minimum_step if golden else run.curves.step_E[seen[0]]
    nearest = seen[np.argmin(np.abs(run.curves.step_E[seen] - turn))]
    return float(value_E[nearest]), float(value_E[seen[-1]])
