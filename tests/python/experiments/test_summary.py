"""experiment.json: what came of every cell, at its place on the axes, and what it cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thack.detection import Verdict
from thack.errors import ThackError
from thack.experiments.outcome import CellOutcome, judge, run_outcome
from thack.experiments.plan import PlannedRun, plan
from thack.experiments.stages import Stage, with_upstream
from thack.experiments.summary import summarise
from thack.files import write_json
from thack.schema.experiment import StageCosts, StageRecord, Summary
from thack.schema.verdict import Extent

from .small import settings, write_sums

GOLDEN = Extent(column="golden", start=2.0, minimum=1.0, minimum_step=50, end=1.2, end_step=90, rise=0.2)
PROXY = Extent(column="proxy", start=1.5, minimum=0.4, minimum_step=90, end=0.4, end_step=90, rise=0.0)


def verdict(**changes: Any) -> Verdict:
    usual: dict[str, Any] = {"name": "hacking", "run": "x", "golden": GOLDEN, "proxy": PROXY, "num_evaluations": 9}
    return Verdict(**{**usual, "num_prompts": 8, "proxy_change": -0.1, "over_baseline": 0.3, **changes})


def complete(stage: Stage, cpu_seconds: float) -> None:
    stage.path.mkdir(parents=True, exist_ok=True)
    record = StageRecord(
        name=stage.name,
        key=stage.key,
        seconds=2 * cpu_seconds,
        cpu_seconds=cpu_seconds,
        operations=0.0,
        inputs={},
        settings={},
    )
    write_json(stage.path / "stage.json", record.dump())
    (stage.path / "model").mkdir(exist_ok=True)
    (stage.path / "model" / "config.json").write_text('{"vocab_size": 270}')


@pytest.fixture
def planned(tmp_path: Path) -> list[PlannedRun]:
    chosen = settings(write_sums(tmp_path / "data"), "figures=['F5']", "arms=['offline', 'online-teacher']")
    return plan(chosen, tmp_path / "out")


def test_finished_failed_and_missing_cells(planned: list[PlannedRun], tmp_path: Path) -> None:
    chosen = settings(tmp_path / "data", "figures=['F5']", "arms=['offline', 'online-teacher']")
    for stage in with_upstream([planned[0].run]):
        complete(stage, 1.5)
    outcomes = (
        CellOutcome(planned=planned[0], verdict=verdict(), alarm=True),
        CellOutcome(planned=planned[1], error=ThackError("no luck", hint="try again")),
    )
    found = summarise(chosen, tmp_path / "out", outcomes)
    first, second = found.runs
    assert (first.state, first.cell, first.seed, first.figures, first.error) == ("finished", 0, 0, ("F5",), None)
    assert first.outcome == run_outcome(verdict(), alarm=True)
    assert first.axes == found.base == planned[0].cell.arm
    assert (tmp_path / "out" / first.path) == planned[0].run.path
    assert (first.seconds, first.cpu_seconds, first.bytes_per_token) == (3.0, 1.5, 4 * 270 + 2)
    assert (second.state, second.outcome, second.seconds) == ("failed", None, None)
    assert second.error is not None and "no luck" in second.error
    assert found.figures == ("F5",) and found.title == chosen.title and found.seeds == (0,)
    assert [claim.text for claim in found.claims] == [], "nothing to compare with"
    number = len(with_upstream([planned[0].run]))
    assert found.cpu_seconds == 1.5 * number and found.seconds == 3.0 * number
    assert StageCosts(name="run", count=1, cpu_seconds=1.5) in found.stages
    assert {"oracle", "teacher", "student", "cache", "corpus"} <= {stage.name for stage in found.stages}
    assert Summary.parse(json.loads(json.dumps(found.dump()))) == found


def test_claims_of_the_finished_cells(planned: list[PlannedRun], tmp_path: Path) -> None:
    chosen = settings(tmp_path / "data", "figures=['F5']", "arms=['offline', 'online-teacher']")
    for one in planned:
        for stage in with_upstream([one.run]):
            complete(stage, 1.0)
    sound = verdict(name="healthy", golden=replace(GOLDEN, rise=0.01))
    outcomes = (CellOutcome(planned=planned[0], verdict=verdict()), CellOutcome(planned=planned[1], verdict=sound))
    found = {claim.text: claim for claim in summarise(chosen, tmp_path / "out", outcomes).claims}
    more = found["Offline data hacks more than newly sampled responses by the teacher"]
    assert more.effect.mean == pytest.approx(0.19) and more.answer == "inconclusive"


def test_a_run_without_golden_or_proxy_has_no_such_numbers() -> None:
    found = run_outcome(verdict(golden=None, proxy=None, proxy_change=None, over_baseline=None), alarm=False)
    numbers = (found.rise, found.golden_end, found.proxy_end, found.proxy_change, found.over_baseline)
    assert numbers == (None,) * 5 and not found.alarm


def test_a_cell_without_a_run_is_missing_or_failed(planned: list[PlannedRun]) -> None:
    assert judge(planned[0], None).state == "missing"
    error = ThackError("no luck")
    assert judge(planned[0], error) == CellOutcome(planned=planned[0], error=error)
