"""A dry run counts what is missing, and writes nothing; --array writes what Slurm needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from thack.cli import app
from thack.config.experiment import ExperimentSettings, RoleSettings
from thack.data.tokenizer import Tokenizer
from thack.experiments import probe as probing
from thack.experiments.costs import Cost, CostEstimator
from thack.experiments.forecast import forecast
from thack.experiments.plan import plan
from thack.files import write_json
from thack.models.load import new_model
from thack.schema.experiment import Plan, StageRecord

from .small import SETS, settings, write_sums


def test_what_is_shared_is_counted_once(tmp_path: Path) -> None:
    chosen = settings(write_sums(tmp_path / "data"), "figures=['F5', 'F7']", "seeds=[0, 1]")
    found = forecast(chosen, plan(chosen, tmp_path / "out"), workers=2)
    count = {kind.name: kind.count for kind in found.kinds}
    assert count["oracle"] == 1 and count["teacher"] == 2 and count["run"] == 2 * 6
    assert found.tokens > 0 and found.hours > 0 and found.rate > 0
    assert not (tmp_path / "out").exists()


def test_costs_grow_with_what_they_count() -> None:
    sizes = CostEstimator(ExperimentSettings(), 24, 28)
    role = ExperimentSettings().student
    assert sizes.fine_tune(role, 200).operations == 2 * sizes.fine_tune(role, 100).operations
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


def test_the_rate_is_that_of_the_fastest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps, of 3 and of 2 seconds: 6 operations per weight and token, in 2 seconds."""
    clock = iter([10.0, 13.0, 20.0, 22.0])
    monkeypatch.setattr(probing, "thread_time", lambda: next(clock))
    chosen = ExperimentSettings(max_prompt_tokens=10, max_response_tokens=6)
    batch = probing._some_batch(chosen)
    tokens = sum(map(len, batch.prompts)) + sum(map(len, batch.responses))
    model = new_model(chosen.student.architecture, Tokenizer.train(["a probe"], 258), 0)
    weights = sum(parameter.numel() for parameter in model.parameters())
    before = torch.get_num_threads()
    assert probing.probe(chosen, steps=2) == 6 * weights * tokens / 2.0
    assert torch.get_num_threads() == before
    assert tokens == min(32, chosen.distill.batch_size) * (6 + 4)


def test_the_rate_of_a_student_from_a_directory_is_measured_at_its_width(tmp_path: Path) -> None:
    """A narrow model is bound by overhead: its rate once foretold 51 hours for a night."""
    (tmp_path / "wide").mkdir()
    write_json(tmp_path / "wide" / "config.json", {"model_type": "llama", "hidden_size": 576})
    chosen = ExperimentSettings(models=str(tmp_path), student=RoleSettings(model="wide"))
    found = probing._architecture(chosen)
    assert (found.hidden_size, found.num_heads, found.num_layers) == (576, 9, 2)
    write_json(tmp_path / "wide" / "config.json", {"model_type": "llama", "hidden_size": 8192})
    assert probing._architecture(chosen).hidden_size == 1024
    assert probing.probe(ExperimentSettings(dtype="bfloat16", student=RoleSettings()), steps=1) > 0


def test_the_rate_is_that_of_complete_stages_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(write_sums(tmp_path / "data"), "figures=['F4']")
    (planned,) = plan(chosen, tmp_path / "out")
    for stage in planned.run.needs:
        if stage.name in ("oracle", "teacher"):
            stage.path.mkdir(parents=True)
            record = StageRecord(
                name=stage.name,
                key=stage.key,
                seconds=9.0,
                cpu_seconds=10.0,
                operations=0.0,
                inputs={},
                settings={},
            )
            write_json(stage.path / "stage.json", record.dump())
    monkeypatch.setattr("thack.experiments.forecast.probe", lambda settings: pytest.fail("there are complete stages"))
    found = forecast(chosen, [planned], workers=4)
    costs = {stage.name: stage.cost.operations for stage in planned.run.needs}
    assert found.rate == (costs["oracle"] + costs["teacher"]) / 20.0
    kinds = {kind.name: kind for kind in found.kinds}
    assert (kinds["teacher"].complete, kinds["teacher"].seconds, kinds["student"].complete) == (1, 0.0, 0)
    assert kinds["student"].seconds == pytest.approx(costs["student"] / found.rate)
    assert found.measured_on == "2 complete stages"
    assert found.hours == pytest.approx(sum(kind.seconds for kind in found.kinds) / 4 / 3600)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    data = write_sums(tmp_path / "data")
    sets = [word for key in [*SETS, f"data={data}"] for word in ("--set", key)]
    return ["experiment", "quick", "--figures", "F5", "--out", str(tmp_path / "out"), *sets]


def test_dry_run_and_array_on_the_command_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*arguments, "--dry-run"]) == 0
    assert "online-student" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert app.run([*arguments, "--array", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = Plan.parse(json.loads((tmp_path / "out" / "cells.json").read_text()))
    assert [cell.cell for cell in written.cells] == [0, 1, 2] and written.recipe == "quick"
    assert [Path(name).name.rpartition("-")[0] for name in written.cells[0].needs] == [
        *("corpus", "oracle", "splits", "oracle-responses", "teacher", "student", "eval_set", "cache")
    ]
    assert "--array 3" in told["submit"][0] and "{task}" in told["submit"][0]


def test_wrong_uses_are_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([*arguments, "--cell", "0", "--dry-run"]) == 2
    assert app.run([*arguments, "--cell", "7"]) == 2
    assert "cells are 0 to 2" in capsys.readouterr().err
    assert app.run([*arguments[:2], "--figures", "F9", "--dry-run"]) == 2


def test_a_grid_on_the_command_line_ends_in_a_page_and_names_what_failed(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THACK_NUM_THREADS", "1")
    from thack.experiments import work

    made = work.cache
    monkeypatch.setattr(work, "cache", lambda *_: 1 / 0)
    assert app.run([*arguments, "--quiet"]) == 1
    assert "1 of 3 cells failed" in capsys.readouterr().err
    monkeypatch.setattr(work, "cache", made)
    assert app.run([*arguments, "--quiet"]) == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert json.loads((tmp_path / "out" / "STATUS.json").read_text())["state"] == "finished"
