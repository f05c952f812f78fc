"""A dry run counts what is missing, and writes nothing; --array writes what Slurm needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thack.cli import app
from thack.config.experiment import ExperimentSettings
from thack.experiments.costs import Cost, Sizes
from thack.experiments.forecast import forecast, probe
from thack.experiments.plan import plan

from .small import SETS, settings, write_sums


def test_what_is_shared_is_counted_once(tmp_path: Path) -> None:
    chosen = settings(write_sums(tmp_path / "data"), "figures=['F5', 'F7']", "seeds=[0, 1]")
    found = forecast(chosen, plan(chosen, tmp_path / "out"), workers=2)
    count = {kind.name: kind.count for kind in found.kinds}
    assert count["oracle"] == 1 and count["teacher"] == 2 and count["run"] == 2 * 6
    assert found.tokens > 0 and found.hours > 0 and found.rate > 0
    assert not (tmp_path / "out").exists()


def test_costs_grow_with_what_they_count() -> None:
    sizes = Sizes(ExperimentSettings(), 24, 28)
    role = ExperimentSettings().student
    assert sizes.fine_tune(role, 200).operations == 2 * sizes.fine_tune(role, 100).operations
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


def test_the_probe_measures_this_machine() -> None:
    assert 1e7 < probe(ExperimentSettings(), steps=1) < 1e13


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
    manifest = json.loads((tmp_path / "out" / "cells.json").read_text())
    assert [cell["cell"] for cell in manifest["cells"]] == [0, 1, 2]
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
