"""experiment.json, cells.json and stage.json come back as they went, and say what is wrong with them."""

from __future__ import annotations

import json

import pytest

from thack.errors import DataError
from thack.schema.document import dump
from thack.schema.experiment import (
    CellResult,
    ClaimResult,
    Effect,
    ExperimentArm,
    Plan,
    PlannedCell,
    RunLabel,
    RunLabels,
    RunOutcome,
    SpentTime,
    StageCosts,
    StageRecord,
    Summary,
)

ARM = ExperimentArm(
    task="docstring",
    source="mixture",
    fraction_online=0.1,
    diversity=1,
    budget=2,
    loss="jsd",
    teacher="128",
    student="models/small",
    target="live/top-k:16",
)
OUTCOME = RunOutcome(
    verdict="hacking", rise=0.1, golden_end=1.2, proxy_end=0.5, proxy_change=None, over_baseline=-0.1, alarm=True
)
FINISHED = CellResult(
    cell=0,
    path="runs/a",
    arm="10 % online",
    seed=3,
    figures=("F4",),
    axes=ARM,
    state="finished",
    outcome=OUTCOME,
    bytes_per_token=38,
    seconds=1.5,
    cpu_seconds=1.25,
)
FAILED = CellResult(cell=1, path="runs/b", arm="b", seed=3, figures=(), axes=ARM, state="failed", error="no luck")
EFFECT = Effect(seeds=(0, 1), values=(0.1, 0.2), mean=0.15, low=-0.4, high=0.7)
CLAIM = ClaimResult(
    figure="F4",
    text='says "so"',
    measure="a rise",
    unit="%",
    above=0.03,
    below=None,
    effect=EFFECT,
    answer="inconclusive",
)
SUMMARY = Summary(
    title="T",
    figures=("F4", "axes"),
    base=ARM,
    seeds=(3,),
    runs=(FINISHED, FAILED),
    claims=(CLAIM,),
    stages=(StageCosts(name="oracle", count=2, cpu_seconds=7.5),),
    seconds=9.0,
    cpu_seconds=8.0,
    settings={"name": "demo", "oracle": {"epochs": 8}, "seeds": [3]},
)
PLAN = Plan(recipe="laptop", cells=(PlannedCell(cell=0, arm="offline", seed=0, run="runs/a", needs=("stages/b",)),))
RECORD = StageRecord(
    name="oracle",
    key="sha256:0",
    seconds=1.0,
    cpu_seconds=2.0,
    operations=3e9,
    inputs={"upstream": ["sha256:1"]},
    settings={"epochs": 8},
)


@pytest.mark.parametrize("value", [SUMMARY, PLAN, RECORD, SpentTime(seconds=1.5, cpu_seconds=2.25)])
def test_a_document_comes_back(value: Summary | Plan | StageRecord | SpentTime) -> None:
    text = json.dumps(value.dump(), allow_nan=False)
    assert type(value).parse(json.loads(text)) == value
    assert json.loads(text)["schema"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "schema 2"),
        ({"base": {"task": "docstring"}}, "source is missing"),
        ({"runs": [{**dump(FINISHED), "state": "lost"}]}, "'lost'"),
        ({"figures": "F4"}, "figures"),
        ({"cpu_seconds": None}, "cpu_seconds"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Summary.parse({**SUMMARY.dump(), **change}, "x/experiment.json")


def test_labels_are_read_from_a_summary_and_from_what_a_user_wrote() -> None:
    assert RunLabels.parse(SUMMARY.dump()) == RunLabels(
        title="T",
        runs=(RunLabel(path="runs/a", arm="10 % online", seed=3), RunLabel(path="runs/b", arm="b", seed=3)),
    )
    assert RunLabels.parse({"runs": [{"path": "a", "arm": "b"}]}).runs == (RunLabel(path="a", arm="b"),)
    with pytest.raises(DataError, match="arm is missing"):
        RunLabels.parse({"runs": [{"path": "a"}]})
