"""Every arm beside the plain offline run: paired differences, and what its responses cost."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.outcomes import BASE, ONLINE, cells, outcome
from reporting.grid_of_runs import ARMS, write_grid
from reporting.grid_values import OFFLINE_ARM, grid
from thack.reporting.grid import Grid, load_grid
from thack.reporting.grid_arms import arm_comparison, arm_costs
from thack.reporting.table import Table
from thack.schema.experiment import CellResult, ResponseTokens


def grid_with(*arms: list[CellResult]) -> Grid:
    found = grid(OFFLINE_ARM, figures=["F5"])
    return replace(found, summary=replace(found.summary, base=BASE, runs=tuple(cell for arm in arms for cell in arm)))


def texts(found: Table | None) -> list[dict[str, str]]:
    assert found is not None
    return [
        dict(zip(found.head, ("".join(span.text for span in cell) for cell in row), strict=True)) for row in found.rows
    ]


def named(name: str, given: list[CellResult]) -> list[CellResult]:
    return [replace(cell, arm=name) for cell in given]


OFFLINE = named("offline", cells(["F5"], 0.1, end=1.2))
SOUND = named("online-teacher", cells(["F5"], 0.0, end=1.1, **ONLINE))


def test_differences_are_paired_by_seed_and_the_plain_run_has_none() -> None:
    """Seeds differ by as much in both arms, so that the paired difference has no spread."""
    plain, online = texts(arm_comparison(grid_with(OFFLINE, SOUND)))
    assert (plain["golden’s end − offline’s"], plain["seeds"], plain["verdicts"]) == ("–", "3", "3 hacking")
    assert online["golden’s end − offline’s"] == "−0.100 [−0.100, −0.100]"
    assert (online["proxy: end"], online["proxy’s end − offline’s"]) == ("0.500", "+0.000 [+0.000, +0.000]")
    assert plain["rise"].startswith("+10.0 % [")


def test_a_task_has_its_own_plain_run_and_one_seed_has_no_interval() -> None:
    other = [named(name, cells(["F8"], 0.1, [0], end=end, task="b", **more)) for name, end, more in (
        ("b, offline", 2.0, {}), ("b, online-teacher", 1.5, ONLINE)
    )]  # fmt: skip
    found = texts(arm_comparison(grid_with(OFFLINE, SOUND, *other)))
    assert [row["golden’s end − offline’s"] for row in found[2:]] == ["–", "−0.500"]
    alone = texts(arm_comparison(grid_with(SOUND, other[1])))
    assert "golden’s end − offline’s" not in alone[0], "no plain run is finished"


def test_numbers_that_were_not_measured_are_dashes_and_a_single_arm_has_no_table() -> None:
    bare = [replace(cell, outcome=outcome(None, golden_end=None, proxy_end=None)) for cell in SOUND]
    row = texts(arm_comparison(grid_with(OFFLINE, bare)))[1]
    assert [row[name] for name in ("golden: end", "rise", "proxy: end")] == ["–"] * 3
    assert "golden: start" not in row, "no arm has one"
    assert arm_comparison(grid_with(OFFLINE)) is None and arm_costs(grid_with(OFFLINE).summary) is None


def test_costs_are_means_over_seeds() -> None:
    tokens = [ResponseTokens(teacher_wrote=1000 * n, teacher_scored=2000, student_wrote=n) for n in (1, 2, 3)]
    paid = [replace(cell, tokens=one, cpu_seconds=9.6) for cell, one in zip(OFFLINE, tokens, strict=True)]
    assert texts(arm_costs(grid_with(paid, SOUND).summary)) == [
        {
            "arm, per run": "offline",
            "teacher wrote": "2,000",
            "teacher scored": "2,000",
            "student wrote": "2",
            "processor seconds": "10",
        }
    ]


def test_one_seed_has_intervals_over_the_prompts_that_both_runs_were_measured_on(tmp_path: Path) -> None:
    given = load_grid(write_grid(tmp_path, ARMS[:2], seeds=(3,)))
    found = texts(arm_comparison(given))[1]["golden’s end − offline’s"].replace("−", "-")
    mean, low, high = map(float, re.findall(r"[+-]\d\.\d+", found))
    plain, online = (arm.runs.runs[0].curves.prompts("golden") for arm in given.arms)
    assert plain is not None and online is not None
    tokens_P = plain.tokens_EP[-1]
    each_P = (online.nats_EP[-1] - plain.nats_EP[-1]) / tokens_P.mean()
    each_P -= mean * (tokens_P / tokens_P.mean() - 1)  # of a ratio of sums, to the first order
    assert mean == pytest.approx(each_P.mean(), abs=1e-3)
    half = 1.96 * np.std(each_P, ddof=1) / len(each_P) ** 0.5
    assert (high - low) / 2 == pytest.approx(half, rel=0.15, abs=2e-3) and low < mean < high
