"""Rows of a log: flat, numeric, and merged by step."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from thack.detection.logs import ByStep, number_or_nan, read_rows
from thack.errors import DataError

ROWS: list[dict[str, object]] = [
    {"step": 1, "loss": 2.0},
    {"step": 2, "loss": 1.5, "note": "text"},
    {"step": 2, "golden": 1.0},
    {"step": 2, "proxy": 0.5},
    {"step": 4, "golden": None, "proxy": 0.25},
    {"step": 2, "golden": 0.75},
    {"event": "guard", "step": 4, "action": "alarm"},
    {"loss": 9.0},
]


def test_nested_keys_are_joined_and_quoted_numbers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": "10", "eval": {"kl": "0.5", "name": "a"}}) + "\n")
    assert read_rows(path) == [{"step": 10.0, "eval/kl": 0.5, "eval/name": "a"}]


CSV = '\ufeffstep,golden,note\r\n0,1.0,\r\n\r\n10,,"a, b"\r\n20,0.5,c'


def test_csv_is_a_log_whose_empty_fields_were_not_logged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(CSV.encode())
    whole = [{"step": 0.0, "golden": 1.0}, {"step": 10.0, "note": "a, b"}, {"step": 20.0, "golden": 0.5, "note": "c"}]
    assert read_rows(path) == whole
    path.write_bytes(CSV.removesuffix(",c").encode())  # its writer was killed
    assert read_rows(path) == whole[:2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "metrics.csv has no rows yet"),
        ("step,a,a\n1,2,3\n", "metrics.csv: two columns are named 'a'"),
        ("step,a\n1,2\n3\n", "metrics.csv: row 2 has 1 fields, but there are 2 columns"),
        ('step,a\n1,"2\n', "metrics.csv: not CSV"),
        ("step,a\n1,2,3", "metrics.csv: row 1 has 3 fields"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_rows(path)


@pytest.mark.parametrize("content", [[{"step": 1}], {"log_history": [{"step": 1}]}])
def test_json_lists_and_a_trainers_state_are_logs(tmp_path: Path, content: object) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps(content))
    assert read_rows(path) == [{"step": 1}]


@pytest.mark.parametrize("content", [3, {"rows": []}, [1]])
def test_other_json_is_no_log(tmp_path: Path, content: object) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="neither a list of rows nor"):
        read_rows(path)


def test_rows_are_merged_by_step_and_the_last_value_counts() -> None:
    found = ByStep.of(ROWS, "step", ["golden", "proxy"])
    assert list(found.training) == [1, 2] and sorted(found.evaluations) == [2, 4]
    columns = found.columns("step")
    np.testing.assert_array_equal(columns["golden"], [0.75, np.nan])
    np.testing.assert_array_equal(columns["proxy"], [0.5, 0.25])
    assert list(found.series("step")) == ["loss"]
    assert found.series("step")["loss"].value.tolist() == [2.0, 1.5]


def test_an_event_says_what_a_row_is() -> None:
    rows = [{"event": "train", "step": 1, "golden": 3.0}, {"event": "evaluation", "step": 1, "other": 1.0}]
    found = ByStep.of(rows, "step", ["golden"])
    assert list(found.training) == list(found.evaluations) == [1]
    foreign = ByStep.of([{"event": "epoch_end", "step": 1, "golden": 3.0}], "step", ["golden"])
    assert list(foreign.evaluations) == [1]


def test_the_last_logged_value_decides_whether_a_curve_ends() -> None:
    found = ByStep.of(ROWS, "step", ["golden", "proxy"])
    assert found.ends_without_number("golden") and not found.ends_without_number("proxy")


@pytest.mark.parametrize("value", [None, True, "1", math.inf, math.nan, 10**400, [1.0]])
def test_what_is_no_finite_number_is_nan(value: object) -> None:
    assert math.isnan(number_or_nan(value))
