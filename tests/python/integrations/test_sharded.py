"""The callback on two ranks whose weights are sharded: the numbers of one whole model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def log_of(place: Path, processes: int) -> list[dict[str, float]]:
    place.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = str(Path(__file__).with_name("sharded.py"))
    done = subprocess.run(
        [sys.executable, *launcher, script, str(place)],
        capture_output=True, text=True, timeout=290, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows: list[dict[str, float]] = json.loads((place / "log.json").read_text())
    return rows


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_student_sharded_over_two_ranks_measures_as_a_whole_one(tmp_path: Path) -> None:
    sharded, whole = log_of(tmp_path / "sharded", 2), log_of(tmp_path / "whole", 1)
    assert [row["step"] for row in sharded] == [row["step"] for row in whole] == [0, 1, 2]
    for ours, theirs in zip(sharded, whole, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert (tmp_path / "sharded" / "thack" / "metrics.jsonl").is_file()
