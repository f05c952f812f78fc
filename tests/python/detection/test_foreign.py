"""Which column is which curve: thack's own, what stands in for the oracle, and columns of a mapping."""

from __future__ import annotations

from dataclasses import replace

import pytest

from thack.detection.foreign import check_mapping, find_columns
from thack.errors import DataError, UsageError
from thack.schema.metrics import GOLDEN, PROXY, Role

OWN = {"step", "loss", "train_kl/monitor", "train_kl/fresh", str(GOLDEN), str(PROXY), str(GOLDEN.of_baseline)}


def test_the_columns_of_a_run_need_no_mapping() -> None:
    found = find_columns(OWN, {}, GOLDEN, "log")
    assert found.step == "step"
    assert dict(found.of) == {
        "golden": str(GOLDEN),
        "proxy": str(PROXY),
        "baseline": str(GOLDEN.of_baseline),
        "monitor": "train_kl/monitor",
        "fresh": "train_kl/fresh",
        "train_loss": "loss",
    }


def test_another_metric_takes_its_own_proxy_and_baseline() -> None:
    jsd = replace(GOLDEN, divergence="jsd")
    columns = {str(jsd), str(jsd.against(Role.TEACHER)), str(jsd.of_baseline)}
    found = find_columns(OWN | columns, {}, jsd, "log")
    assert {found.of[name] for name in ("golden", "proxy", "baseline")} == columns


@pytest.mark.parametrize("role", [Role.JUDGE, Role.HUMAN])
def test_a_judge_or_people_take_the_oracles_place(role: Role) -> None:
    metric = GOLDEN.against(role)
    present = {"step", str(PROXY), str(metric), str(metric.of_baseline)}
    found = find_columns(present, {}, GOLDEN, "log")
    assert found.of["golden"] == str(metric) and found.of["baseline"] == str(metric.of_baseline)


def test_the_judge_comes_before_people() -> None:
    present = {"step", str(GOLDEN.against(Role.HUMAN)), str(GOLDEN.against(Role.JUDGE))}
    assert find_columns(present, {}, GOLDEN, "log").of["golden"].startswith("judge/")


def test_another_trainers_golden_has_no_baseline() -> None:
    present = {"global_step", "eval/kl", str(GOLDEN.of_baseline)}
    found = find_columns(present, {"golden": "eval.kl"}, GOLDEN, "log")
    assert found.of == {"golden": "eval/kl"} and found.step == "global_step"


@pytest.mark.parametrize(
    ("present", "mapping", "message"),
    [
        ({"step", "kl"}, {}, "log has neither a golden nor a proxy column"),
        ({"time", "kl"}, {"proxy": "kl"}, "log has no column for the step"),
        ({"step", "kl"}, {"proxy": "kk"}, r"no column 'kk' \(for proxy\)"),
        ({"step", "kl"}, {"proxy": "kl", "step": "at"}, r"no column 'at' \(for step\)"),
    ],
)
def test_what_is_missing_is_named(present: set[str], mapping: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_columns(present, mapping, GOLDEN, "log")


def test_a_mapping_names_curves_only() -> None:
    check_mapping({"golden": "a", "step": "b", "train_loss": "c"})
    with pytest.raises(UsageError, match="names no curve 'proxi'"):
        check_mapping({"proxi": "a"})
