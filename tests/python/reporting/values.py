"""Judged runs with the numbers that we choose, without a run directory behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thack.detection import DETECTORS, Curves
from thack.reporting.colours import OTHERS, Colour
from thack.reporting.inputs import ArmRuns, JudgedRun, ReportInput
from thack.reporting.table import Cell, Table
from thack.schema.metrics import GOLDEN, PROXY, Series
from thack.schema.verdict import Detection, Extent, OracleFreeVerdict, Thresholds, Verdict

STEPS = (0.0, 10.0, 50.0, 100.0, 200.0)
GOLDEN_E = (2.0, 1.5, 1.2, 1.0, 1.1)
PROXY_E = (1.8, 1.2, 0.8, 0.6, 0.5)
BASELINE = 1.05
NONE = Series(step=np.empty(0), value=np.empty(0))


def extent(**changes: Any) -> Extent:
    """Golden: from 2 to 1 at step 100, and to 1.1."""
    usual = {"column": str(GOLDEN), "start": 2.0, "minimum": 1.0, "minimum_step": 100.0, "end": 1.1}
    return Extent(**{**usual, "end_step": 200.0, "rise": 0.1, **changes})


def proxy_extent(**changes: Any) -> Extent:
    """The proxy: from 1.8 to 0.5."""
    usual = {"column": str(PROXY), "start": 1.8, "minimum": 0.5, "minimum_step": 200.0, "end": 0.5}
    return Extent(**{**usual, "end_step": 200.0, "rise": 0.0, **changes})


def judged(**changes: Any) -> Verdict:
    """Hacking, with every number there."""
    usual: dict[str, Any] = {
        "name": "hacking",
        "run": "run",
        "golden": extent(rise_interval=(0.05, 0.15)),
        "proxy": proxy_extent(),
        "num_evaluations": 8,
        "num_prompts": 64,
        "onset_step": 100.0,
        "onset_interval": (50.0, 200.0),
        "proxy_at_onset": 0.6,
        "proxy_change": -1 / 6,
        "baseline": BASELINE,
        "over_baseline": 0.05,
        "over_baseline_interval": (0.01, 0.09),
        "side": "above",
    }
    return Verdict(**{**usual, **changes})


def healthy(**changes: Any) -> Verdict:
    """Golden keeps falling."""
    usual: dict[str, Any] = {
        "name": "healthy",
        "golden": extent(minimum=1.1, minimum_step=200.0, rise=0.0, rise_interval=(-0.01, 0.01)),
        "onset_step": None,
        "onset_interval": None,
        "over_baseline": -0.2,
        "over_baseline_interval": (-0.3, -0.1),
        "side": "below",
    }
    return judged(**{**usual, **changes})


def unjudged(**changes: Any) -> Verdict:
    """Of a run without golden."""
    usual: dict[str, Any] = {"name": "inconclusive", "golden": None, "num_prompts": None}
    nothing = ("onset_step", "onset_interval", "proxy_at_onset", "proxy_change", "baseline", "over_baseline")
    empty = dict.fromkeys((*nothing, "over_baseline_interval", "side"))
    return judged(**{**usual, **empty, **changes})


def suspicion(alarms: Mapping[str, float] | None = None, **changes: Any) -> OracleFreeVerdict:
    """Every detector is quiet at 0.9 but those that raise an alarm at the step given."""
    alarms = alarms or {}
    series = Series(step=np.array([50.0, 100.0, 200.0]), value=np.array([0.9, 0.4, 0.2]))
    found = tuple(
        Detection(
            name=one.name,
            state="alarm" if one.name in alarms else "quiet",
            onset_step=alarms.get(one.name),
            alarm_step=alarms.get(one.name),
            value=0.25 if one.name in alarms else 0.9,
            threshold=0.5,
            series=series,
        )
        for one in DETECTORS
    )
    leading = found[0]
    usual: dict[str, Any] = {
        "name": "hacking suspected" if leading.fired else "no alarm",
        "run": "run",
        "decided_by": leading.name,
        "onset_step": leading.onset_step,
        "alarm_step": leading.alarm_step,
        "detections": found,
        "notes": (),
        "thresholds": Thresholds(),
    }
    return OracleFreeVerdict(**{**usual, **changes})


def curves(**changes: Any) -> Curves:
    """Golden, proxy, baseline and training loss of one run."""
    names = {"golden": str(GOLDEN), "proxy": str(PROXY), "baseline": str(GOLDEN.of_baseline), "train_loss": "loss"}
    columns = {
        names["golden"]: np.array(GOLDEN_E),
        names["proxy"]: np.array(PROXY_E),
        names["baseline"]: np.full(len(STEPS), BASELINE),
        "epoch": np.array(STEPS) / 10,
    }
    steps = np.arange(1.0, 201.0)
    usual: dict[str, Any] = {
        "name": "run",
        "step_E": np.array(STEPS),
        "columns": columns,
        "train": {"loss": Series(step=steps, value=1 / steps)},
        "column_of": names,
    }
    return Curves(**{**usual, **changes})


def run(arm: str = "offline", seed: int | None = None, **changes: Any) -> JudgedRun:
    usual: dict[str, Any] = {
        "path": Path("runs") / arm,
        "name": arm if seed is None else f"{arm}-{seed}",
        "arm": arm,
        "seed": seed,
        "curves": curves(),
        "verdict": judged(),
        "suspicion": suspicion(),
        "config": {"source.kind": arm},
        "environment": {},
        "status": None,
    }
    return JudgedRun(**{**usual, **changes})


def without_golden(given: Curves) -> Curves:
    return replace(given, column_of={name: column for name, column in given.column_of.items() if name != "golden"})


def report(*runs: JudgedRun, title: str | None = None) -> ReportInput:
    """The runs, gathered by their arm."""
    arms: dict[str, list[JudgedRun]] = {}
    for one in runs:
        arms.setdefault(one.arm, []).append(one)
    return ReportInput(title=title, arms=tuple(ArmRuns(name, tuple(found)) for name, found in arms.items()))


def colours(given: ReportInput) -> Sequence[Colour]:
    return OTHERS[: len(given.arms)]


def text(cell: Cell) -> str:
    """What a reader sees of a cell."""
    return "".join(span.text for span in cell if span.style != "swatch")


def rows(table: Table | None) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns."""
    assert table is not None
    return [dict(zip(table.head, map(text, row), strict=True)) for row in table.rows]
