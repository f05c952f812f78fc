"""What a reader is warned of before the numbers: one line a warning, whatever the number of runs."""

from __future__ import annotations

import numpy as np
import pytest

from reporting.values import curves, report, run
from thack.reporting.answers import warnings
from thack.reporting.inputs import JudgedRun

CUT = "health/truncated_share/student_sampled"
REST = "of the responses that the student samples are cut at the maximum length, and show no end "


def cut(arm: str, share: float, seed: int | None = None) -> JudgedRun:
    return run(arm, seed, curves=curves(columns={**curves().columns, CUT: np.full(5, share)}))


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.05], None),
        ([0.5], "run 0: 50 %"),
        ([0.94, 0.05, 0.944], "run 0 and run 2: 94 %"),
        ([0.94, 0.05, 0.12, 0.3], "3 of 4 runs: 12 to 94 %"),
    ],
)
def test_cut_responses_are_told_once_for_all_runs(shares: list[float], expected: str | None) -> None:
    found = warnings(report(*(cut(f"run {number}", share) for number, share in enumerate(shares))))
    assert found == (() if expected is None else (f"{expected} {REST}(data.max_response_tokens)",))
