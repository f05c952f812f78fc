"""Verdicts on runs whose tokenizers differ: golden and proxy are log ratios in nats per byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thack.detection import Curves, verdict, verdict_without_oracle
from thack.reporting.prose import reasons
from thack.schema.metrics import GOLDEN, PROXY, Role

from .synthetic import Noise, across, write_run

NOISE = Noise(prompt=0.05, checkpoint=0.002)


@pytest.mark.parametrize("kind", ["hacking", "healthy", "over-fitting", "regressing to the teacher"])
def test_the_verdict_is_that_of_the_same_curves_per_token(tmp_path: Path, kind: str) -> None:
    expected = verdict(Curves.from_run(write_run(tmp_path / "token", kind, noise=NOISE)))
    curves = Curves.from_run(across(write_run(tmp_path / "byte", kind, noise=NOISE)))
    found = verdict(curves)
    assert curves.is_per_byte and found.name == expected.name == kind
    assert found.golden is not None and expected.golden is not None and found.baseline is not None
    assert found.golden.metric == GOLDEN.per_byte and found.proxy is not None
    assert found.proxy.metric == PROXY.per_byte
    assert found.golden.rise == pytest.approx(expected.golden.rise)
    assert found.golden.rise_interval == pytest.approx(expected.golden.rise_interval, abs=1e-9)
    assert found.golden.end == pytest.approx(expected.golden.end / 3)
    assert found.baseline == pytest.approx((expected.baseline or 0) / 3)
    assert found.over_baseline_interval == pytest.approx([x / 3 for x in expected.over_baseline_interval or ()])


@pytest.mark.parametrize("keep", [("golden",), ("proxy",), ("golden", "baseline"), ("golden", "proxy")])
def test_all_curves_are_read_in_one_unit(tmp_path: Path, keep: tuple[str, ...]) -> None:
    curves = Curves.from_run(across(write_run(tmp_path / "run"), keep=keep))
    units = {curves.column_of[name].rpartition("/")[2] for name in ("golden", "proxy", "baseline")}
    assert units == {"byte_mean"}


def test_where_ids_are_shared_they_are_compared_id_by_id(tmp_path: Path) -> None:
    """`evaluation.per_byte` adds columns, and changes no verdict."""
    run = across(write_run(tmp_path / "run"), keep=("golden", "proxy", "baseline"))
    curves = Curves.from_run(run)
    assert curves.metric("golden") == GOLDEN and not curves.is_per_byte
    other = Curves.from_run(across(write_run(tmp_path / "other"))).like(run)
    assert other.metric("golden") == GOLDEN.per_byte and other.is_per_byte


@pytest.mark.parametrize(
    "column", ["golden/forward_kl/reference_sampled/sequence_sum", "golden/log_ratio/reference_sampled/byte_mean"]
)
def test_each_curve_has_intervals_in_its_own_unit(tmp_path: Path, column: str) -> None:
    """Also where a mapping gives golden another unit than the proxy's."""
    run = across(write_run(tmp_path / "run", noise=NOISE), keep=("golden", "proxy", "baseline"))
    found = verdict(Curves.from_run(run, mapping={"golden": column}))
    for curve in (found.golden, found.proxy):
        assert curve is not None and curve.end_interval is not None
        assert curve.end_interval[0] < curve.end < curve.end_interval[1]


def test_people_in_the_oracles_place(tmp_path: Path) -> None:
    run = across(write_run(tmp_path / "run"))
    for file in ("metrics.jsonl", "per_prompt.jsonl"):
        text = (run / file).read_text().replace("golden/log_ratio", "human/negative_log_likelihood")
        (run / file).write_text(text.replace("baseline/log_ratio", "human_baseline/negative_log_likelihood"))
    curves = Curves.from_run(run)
    assert curves.metric("golden") == GOLDEN.against(Role.HUMAN).per_byte
    assert verdict(curves).name == "hacking"


def test_an_estimate_that_is_not_above_zero_has_no_rise(tmp_path: Path) -> None:
    run = across(write_run(tmp_path / "run"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["step"] == 79 and row["event"] == "evaluation":
            row[str(GOLDEN.per_byte)] = -0.02
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "per_prompt.jsonl").unlink()
    found = verdict(Curves.from_run(run))
    assert found.name == "inconclusive"
    assert any("golden is not above 0 at its lowest" in reason for reason in reasons(found))


def test_the_detectors_read_the_proxy_per_byte(tmp_path: Path) -> None:
    run = across(write_run(tmp_path / "run", with_oracle=False))
    curves = Curves.from_run(run)
    assert curves.column_of["proxy"] == str(PROXY.per_byte)
    found = {one.name: one.state for one in verdict_without_oracle(curves).detections}
    assert found["fresh slope ratio"] == found["slope ratio"] == "alarm"
    assert found["memorisation gap"] == "not enough data" != found["fresh gap"]  # nats per byte over nats per row
