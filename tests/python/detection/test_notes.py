"""Notes beside a verdict: missing values, what a guard did, a run that is not finished."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from thack.detection import notes
from thack.schema.metric_rows import GuardRow
from thack.schema.run import State, Status

ALARM = GuardRow(step=79, action="alarm", detector="slope ratio", value=0.351, threshold=0.5, kept_step=48)


def test_missing_values_are_counted() -> None:
    columns = {"g": np.array([1.0, np.nan, 2.0]), "p": np.array([np.nan, np.nan, 2.0])}
    assert notes.missing_values(columns, {"golden": "g", "proxy": "p"}, ()) == (
        "1 of 3 evaluations have no finite golden and are left out",
        "2 of 3 evaluations have no finite proxy and are left out",
    )
    assert notes.missing_values({"g": np.array([1.0, 2.0])}, {"golden": "g"}, ()) == ()


def test_a_curve_without_an_end_comes_first() -> None:
    found = notes.missing_values({"g": np.array([1.0, np.nan])}, {"golden": "g"}, ("golden",))
    assert found[0].startswith("the last value of golden is no number")


def test_curves_that_never_meet_are_reported() -> None:
    columns = {"g": np.array([1.0, np.nan]), "p": np.array([np.nan, 1.0])}
    assert notes.missing_values(columns, {"golden": "g", "proxy": "p"}, ())[-1].endswith("at the same step")


def test_a_guard_without_an_alarm_is_no_note() -> None:
    assert notes.of_guard([]) == ()


def test_a_guard_that_stopped_the_run() -> None:
    (text,) = notes.of_guard([ALARM, GuardRow(step=160, action="stop")])
    assert text == (
        "a guard was on: slope ratio 0.35 (alarm at 0.5) at step 79; the checkpoint of step 48 was kept; "
        "then it stopped"
    )


@pytest.mark.parametrize("state", ["running", "stopped", "failed"])
def test_a_run_that_is_not_finished(tmp_path: Path, state: State) -> None:
    assert notes.of_status(tmp_path) == ()
    (tmp_path / "STATUS.json").write_text(json.dumps(Status(state=state, step=8).dump()))
    assert notes.of_status(tmp_path) == (
        f"the run is not finished ({state} at step 8): these numbers may still change",
    )


def test_a_finished_run(tmp_path: Path) -> None:
    (tmp_path / "STATUS.json").write_text(json.dumps(Status(state="finished", step=8).dump()))
    assert notes.of_status(tmp_path) == ()
