"""The callback on two ranks whose weights are sharded: the numbers of one whole model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def log_of(place: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = json.loads((place / "log.json").read_text())
    return rows


@pytest.mark.timeout(300)
def test_a_student_sharded_over_two_ranks_measures_as_a_whole_one(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("sharded.py")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    sharded, whole = log_of(tmp_path / "sharded"), log_of(tmp_path / "whole")
    assert [row["step"] for row in sharded] == [row["step"] for row in whole] == [0, 1, 2]
    for ours, theirs in zip(sharded, whole, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert (tmp_path / "sharded" / "thack" / "metrics.jsonl").is_file()
