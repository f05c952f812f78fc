"""A report on runs whose tokenizers differ: one unit on every axis, and a warning where there is none."""

from __future__ import annotations

import re
from pathlib import Path

from detection.synthetic import Noise, across, write_run
from thack.reporting import write_report
from thack.reporting.inputs import load, unit, units

NOISE = Noise(prompt=0.05, checkpoint=0.002)
ALL = ("golden", "proxy", "baseline")


def test_runs_are_read_in_the_unit_that_they_share(tmp_path: Path) -> None:
    plain = across(write_run(tmp_path / "same", "hacking", noise=NOISE), keep=ALL)
    other = across(write_run(tmp_path / "other", "healthy", noise=NOISE))
    alone = load([plain], tmp_path / "a.html")
    assert unit(alone.arms) == "nats per token"
    both = load([plain, other], tmp_path / "b.html")
    assert units(both.arms) == {"nats per byte": "same"}
    assert [run.verdict.name for run in both.runs] == ["hacking", "healthy"]
    page = write_report([plain, other], tmp_path / "b.html").read_text()
    assert "nats per byte" in page and "different units" not in page
    assert "log P(teacher) − log P(student)" in page
    assert "golden, nats per token" not in page and "proxy, nats per token" not in page


def test_units_that_differ_are_named(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "same", "hacking", noise=NOISE)
    other = across(write_run(tmp_path / "other", "healthy", noise=NOISE))
    page = write_report([plain, other], tmp_path / "b.html").read_text()
    assert "different units, and not to be compared: same in nats per token, other in nats per byte" in page


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    run = across(write_run(tmp_path / "other", "healthy", noise=NOISE))
    text = (run / "metrics.jsonl").read_text()
    column = '"health/proxy/left_out_share/reference_sampled": 0.125, "generated_tokens"'
    (run / "metrics.jsonl").write_text(text.replace('"generated_tokens"', column))
    page = write_report([run], tmp_path / "a.html").read_text()
    assert re.search(r"12\.5\s% of the tokens of the teacher", page)
