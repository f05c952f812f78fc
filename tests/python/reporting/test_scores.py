"""The table that scores detectors, where a report has runs of both kinds."""

from __future__ import annotations

from pathlib import Path

from detection.synthetic import Noise, write_run
from thack.reporting.inputs import load
from thack.reporting.scores import detector_scores


def test_detectors_are_scored_where_some_runs_turned_and_others_did_not(tmp_path: Path) -> None:
    noise = Noise(prompt=0.03, checkpoint=0.0)
    runs = [write_run(tmp_path / kind, kind, noise=noise, num_prompts=64) for kind in ("hacking", "healthy")]
    report = load(runs, tmp_path / "report.html")
    found = detector_scores(report.runs)
    assert found is not None
    row = next(row for row in found.rows if row[0][0].text == "slope ratio")
    cells = dict(zip(found.head, ("".join(span.text for span in cell) for cell in row), strict=True))
    assert cells["alarm"] == "below 0.5"
    assert (cells["onsets found"], cells["false alarms"], cells["AUC"]) == ("1 of 1", "0 of 1", "–"), (
        "two runs have no area"
    )
    assert detector_scores(report.runs[:1]) is None
