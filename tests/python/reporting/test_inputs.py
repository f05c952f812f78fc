"""What a report is about: runs are read, judged, named and gathered, whatever their directories are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detection.synthetic import Noise, write_run
from reporting.values import healthy, judged, report, run, unjudged, without_golden
from thack.detection import Margins
from thack.errors import DataError, UsageError
from thack.reporting.inputs import ArmRuns, golden_column, load, read_run, typed
from thack.schema.experiment import RunLabel
from thack.schema.metrics import GOLDEN
from thack.schema.run import Manifest, RunFacts

FAST = Margins(resamples=100)


def small(path: Path, seed: int = 0) -> Path:
    return write_run(path, noise=Noise(checkpoint=0.0), seed=seed, num_prompts=16)


@pytest.mark.parametrize(
    ("name", "arm", "seed"),
    [
        ("offline-seed3", "offline", 3),
        ("offline_seed_12", "offline", 12),
        ("my arm.seed0", "my arm", 0),
        ("seed7", "seed7", 7),
        ("offline", "offline", None),
        ("seedless", "seedless", None),
    ],
)
def test_a_directorys_name_says_arm_and_seed(tmp_path: Path, name: str, arm: str, seed: int | None) -> None:
    found = read_run(small(tmp_path / name), None, FAST)
    assert (found.name, found.arm, found.seed) == (name, arm, seed)


def test_a_label_says_it_better(tmp_path: Path) -> None:
    found = read_run(small(tmp_path / "offline-seed3"), RunLabel(path="x", arm="plain", seed=None), FAST)
    assert (found.name, found.arm, found.seed, found.label) == ("offline-seed3", "plain", None, "plain")


def test_margins_are_those_of_the_caller(tmp_path: Path) -> None:
    path = small(tmp_path / "run")
    assert load([path], tmp_path / "r.html", margins=FAST).runs[0].verdict.margins == FAST
    assert load([path], tmp_path / "r.html").runs[0].verdict.margins == Margins()


def test_settings_environment_and_status_are_read(tmp_path: Path) -> None:
    path = small(tmp_path / "run")
    (path / "STATUS.json").write_text('{"schema": 1, "state": "running", "step": 5}')
    found = read_run(path, None, FAST)
    assert found.config["optimizer.learning_rate"] == 0.001 and found.environment["torch"] == "2.15"
    assert found.status is not None and found.status.state == "running"
    for name in ("config.toml", "environment.json", "STATUS.json"):
        (path / name).unlink()
    bare = read_run(path, None, FAST)
    assert (bare.config, bare.environment, bare.status) == ({}, {}, None)


def test_the_precision_of_each_model_is_part_of_the_environment(tmp_path: Path) -> None:
    path = small(tmp_path / "run")
    facts = RunFacts(models={}, precision={"student": "float32 (asked for)", "cache": "bfloat16"})
    (path / "manifest.json").write_text(json.dumps(Manifest(command="distill", facts=facts).dump()))
    found = read_run(path, None, FAST).environment
    assert found["precision.student"] == "float32 (asked for)" and found["precision.cache"] == "bfloat16"
    (path / "manifest.json").write_text('{"kind": "of another program"}')
    assert "precision.student" not in read_run(path, None, FAST).environment


@pytest.mark.parametrize("place", ["beside the report", "beside the runs", "above the runs"])
def test_labels_are_found_near_the_report_or_the_runs(tmp_path: Path, place: str) -> None:
    runs = [small(tmp_path / "grid" / "runs" / f"r{seed}", seed) for seed in range(2)]
    folders = {
        "beside the report": tmp_path / "out",
        "beside the runs": tmp_path / "grid" / "runs",
        "above the runs": tmp_path / "grid",
    }
    folders[place].mkdir(exist_ok=True)
    labels = [{"path": f"runs/r{seed}", "arm": "plain", "seed": seed + 10} for seed in range(2)]
    (folders[place] / "experiment.json").write_text(json.dumps({"title": "Mine", "runs": labels}))
    found = load(runs, tmp_path / "out" / "report.html", margins=FAST)
    assert found.title == "Mine" and [run.seed for run in found.runs] == [10, 11] and len(found.arms) == 1
    assert load(runs, tmp_path / "out" / "report.html", title="Own", margins=FAST).title == "Own"


@pytest.mark.parametrize("text", ["[]", '{"runs": [{"path": "run"}]}', '{"runs": 3}', "not JSON"])
def test_another_programs_experiment_json_names_nothing(tmp_path: Path, text: str) -> None:
    path = small(tmp_path / "run")
    (tmp_path / "experiment.json").write_text(text)
    found = load([path], tmp_path / "report.html", margins=FAST)
    assert (found.title, found.runs[0].arm) == (None, "run")


def test_runs_are_gathered_by_arm_in_their_order(tmp_path: Path) -> None:
    names = ("b-seed0", "a-seed0", "b-seed1")
    found = load([small(tmp_path / name) for name in names], tmp_path / "r.html", margins=FAST)
    assert [(arm.name, [run.seed for run in arm.runs]) for arm in found.arms] == [("b", [0, 1]), ("a", [0])]
    assert found.has_seeds


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one run"):
        load([], tmp_path / "r.html")
    with pytest.raises(DataError, match="not a run"):
        load([tmp_path], tmp_path / "r.html")
    path = small(tmp_path / "run")
    (path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"config\.toml: not UTF-8"):
        load([path], tmp_path / "r.html")


def test_an_arms_verdict_is_that_of_most_of_its_runs() -> None:
    two, one, none = judged(), healthy(), unjudged()
    assert ArmRuns("a", tuple(run("a", i, verdict=v) for i, v in enumerate((two, two, one)))).verdict == "hacking"
    split = ArmRuns("a", tuple(run("a", i, verdict=v) for i, v in enumerate((two, one))))
    assert split.verdict == "inconclusive" and split.verdicts == {"hacking": 1, "healthy": 1}
    mixed = ArmRuns("a", (run("a", 0, verdict=two), run("a", 1, verdict=none)))
    assert (mixed.rises, mixed.onsets, mixed.median_rise) == ([0.1], [100.0], 0.1)
    assert ArmRuns("a", (run(verdict=none),)).median_rise is None


def test_goldens_column_is_that_of_the_first_run_that_has_it() -> None:
    bare = run("a", curves=without_golden(run().curves))
    assert golden_column(report(bare, run("b")).arms) == str(GOLDEN)
    assert report(bare).golden_column == "" and not bare.has_oracle


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, "0.5"), ("x", "x"), (True, "true"), (None, "null"), ([1, "ü"], '[1, "ü"]'), (Path("a"), '"a"')],
)
def test_settings_as_one_would_type_them(value: object, expected: str) -> None:
    assert typed(value) == expected
