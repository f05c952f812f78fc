"""The table that scores detectors, where a report has runs of both kinds."""

from __future__ import annotations

from pathlib import Path

from synthetic import Noise, write_run

from thack.reporting.runs import load
from thack.reporting.scores import detector_scores


def test_detectors_are_scored_where_some_runs_turned_and_others_did_not(tmp_path: Path) -> None:
    noise = Noise(prompt=0.03, checkpoint=0.0)
    runs = [write_run(tmp_path / kind, kind, noise=noise, num_prompts=64) for kind in ("hacking", "healthy")]
    found = detector_scores(load(runs, tmp_path))
    line = next(row for row in found.split("<tr>") if ">slope ratio<" in row)
    assert "1 of 1" in line and "0 of 1" in line and "1.00" in line
    assert detector_scores(load(runs[:1], tmp_path)) == ""
