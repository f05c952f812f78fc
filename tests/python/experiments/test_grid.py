"""A whole grid at a size that takes seconds: shared stages, going on, crashes, both families of models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detection.synthetic import Noise, write_run
from thack.detection.logs import read_rows
from thack.errors import DataError, ModelError, ThackError, UsageError
from thack.experiments import work
from thack.experiments.demo import run_experiment
from thack.experiments.grid import GridResult, _judged, run_grid
from thack.experiments.plan import plan
from thack.experiments.recipe import load_recipe
from thack.experiments.stages import with_upstream
from thack.experiments.summary import summarise
from thack.models.directory import holds_adapter
from thack.reporting import write_grid_report
from thack.runtime.progress import SILENT
from thack.runtime.status import read_status
from thack.schema.experiment import Method, ResponseTokens

from .small import settings, write_sums

GRID = [
    "figures=['F5', 'F6', 'fraction', 'target']",
    "groups.F6.diversity=[1, 2]",
    "groups.target.target=['top-k:8', 'live/mixed:8+prior']",
]


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THACK_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def grid(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, GridResult]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THACK_NUM_THREADS", "1")
        out = tmp_path_factory.mktemp("grid")
        yield out, run_grid(settings(data, *GRID), out)


def test_every_cell_ends_with_a_verdict(grid: tuple[Path, GridResult]) -> None:
    _, result = grid
    names = [outcome.planned.name for outcome in result.outcomes]
    assert names == [
        "offline",
        "online-teacher",
        "online-student",
        "prompts ÷2",
        "10 % online",
        "50 % online",
        "top-8 + tail",
        "top-8 + shared tail prior",
    ]
    assert all(outcome.state == "finished" for outcome in result.outcomes)


def test_stages_are_shared(grid: tuple[Path, GridResult]) -> None:
    _, result = grid
    stages = with_upstream(outcome.planned.run for outcome in result.outcomes)
    count = {name: sum(stage.name == name for stage in stages) for name in ("oracle", "teacher", "student", "eval_set")}
    assert count == {"oracle": 1, "teacher": 1, "student": 1, "eval_set": 1}
    caches = [stage for stage in stages if stage.name == "cache"]
    assert len(caches) == 3  # dense for all prompts, for half of them, and top-k


def test_every_arm_takes_as_many_steps(grid: tuple[Path, GridResult]) -> None:
    _, result = grid
    status = [json.loads((o.planned.run.path / "STATUS.json").read_text()) for o in result.outcomes]
    assert {entry["step"] for entry in status} == {9}


def test_experiment_json_tells_arms_axes_and_costs(grid: tuple[Path, GridResult]) -> None:
    out, _ = grid
    summary = json.loads((out / "experiment.json").read_text())
    assert summary["figures"] == ["F5", "F6", "fraction", "target"]
    row = summary["runs"][3]
    assert row["arm"] == "prompts ÷2"
    assert row["axes"]["diversity"] == 2
    assert (out / row["path"] / "metrics.jsonl").is_file()
    assert summary["cpu_seconds"] > 0


def test_the_cost_of_a_target_is_told(grid: tuple[Path, GridResult]) -> None:
    """Of top-8 with a tail, whose shape by a shared prior costs nothing; of the whole distribution, 4 bytes an id."""
    rows = json.loads((grid[0] / "experiment.json").read_text())["runs"]
    sizes = {row["arm"]: row["bytes_per_token"] for row in rows}
    assert sizes["offline"] == sizes["online-teacher"] == 4 * 270 + 2  # and the realised token
    assert 0 < sizes["top-8 + tail"] == sizes["top-8 + shared tail prior"] < 42


def test_a_second_start_makes_nothing(
    grid: tuple[Path, GridResult], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = grid
    for name in ("distill", "fine_tune", "generate", "cache", "eval_set"):
        monkeypatch.setattr(work, name, _must_not_run)
    again = run_grid(settings(data, *GRID), out)
    assert not again.failed


def _must_not_run(*arguments: object) -> None:
    raise AssertionError("a finished stage was made again")


def test_a_crashed_cell_spoils_no_other_and_is_tried_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(data, "figures=['F5']", "arms=['offline', 'online-teacher']")
    with monkeypatch.context() as patch:
        patch.setattr(work, "cache", _stumble)
        result = run_grid(chosen, tmp_path)
    assert [outcome.state for outcome in result.outcomes] == ["failed", "finished"]
    assert "cache failed: ZeroDivisionError" in str(result.failed[0].error)
    assert json.loads((tmp_path / "experiment.json").read_text())["runs"][0]["state"] == "failed"
    status = read_status(tmp_path)
    assert status is not None and (status.state, status.reason) == ("failed", "1 of 2 cells failed")
    assert not run_grid(chosen, tmp_path).failed


def _stumble(*arguments: object) -> None:
    raise ZeroDivisionError("a bug")


def test_one_cell_alone(data: Path, tmp_path: Path) -> None:
    chosen = settings(data, "figures=['F5']", "arms=['offline', 'online-teacher']")
    result = run_grid(chosen, tmp_path, only=1)
    assert [outcome.state for outcome in result.outcomes] == ["missing", "finished"]
    with pytest.raises(UsageError, match="no cell 2"):
        run_grid(chosen, tmp_path, only=2)


@pytest.mark.filterwarnings("ignore:.*")  # peft asks transformers under names that are about to go
def test_an_adapter_on_the_fine_tuned_student(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    result = run_grid(settings(data, "figures=['lora']", "groups.lora.lora_rank=[0, 2]"), tmp_path)
    assert [outcome.error for outcome in result.outcomes] == [None, None]
    plain, adapter = (outcome.planned.run for outcome in result.outcomes)
    assert (plain.settings["lora.rank"], adapter.settings["lora.rank"]) == (0, 2)
    assert {s.key for s in plain.needs} == {s.key for s in adapter.needs}, "they start from one student"
    assert holds_adapter(adapter.path / "model") and not holds_adapter(plain.path / "model")
    summary = json.loads((tmp_path / "experiment.json").read_text())
    assert [run["bytes_per_token"] > 0 for run in summary["runs"]] == [True, True]


def test_the_demo_is_a_recipe_of_the_grid(data: Path, tmp_path: Path) -> None:
    result = run_experiment(settings(data, "arms=['offline']"), tmp_path, SILENT)
    assert [run.source for run in result.runs] == ["offline"]
    assert result.report.is_file()


def test_encoder_decoders_walk_the_same_street(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    family = [f"{role}.architecture.family=encoder-decoder" for role in ("oracle", "teacher", "student")]
    chosen = settings(data, *family, "figures=['F5']", "arms=['offline', 'online-teacher', 'online-student']")
    result = run_grid(chosen, tmp_path)
    assert [outcome.error for outcome in result.outcomes] == [None, None, None]
    config = json.loads((result.outcomes[0].planned.run.path / "model" / "config.json").read_text())
    assert config["architectures"] == ["T5ForConditionalGeneration"]


def test_roles_from_directories(grid: tuple[Path, GridResult], data: Path, tmp_path: Path) -> None:
    """As at the paper's size: an oracle as it is, teacher and student fine-tuned from what they were."""
    _, made = grid
    stages = {stage.name: stage for stage in with_upstream([made.outcomes[0].planned.run])}
    for name in ("oracle", "teacher", "student"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / name).symlink_to(stages[name].path / "model")
    sets = [f"{name}.model={name}" for name in ("oracle", "teacher", "student")]
    sets += ["oracle.train=false", f"models={tmp_path / 'models'}", "figures=['F4']"]
    result = run_grid(settings(data, *sets), tmp_path / "out")
    assert result.outcomes[0].state == "finished"
    first = with_upstream([result.outcomes[0].planned.run])
    assert (next(s for s in first if s.name == "oracle").path / "model").resolve().name == "model"


@pytest.mark.parametrize(
    ("sets", "error", "told"),
    [
        (["teacher.model=xl"], UsageError, "the oracle a new model"),
        (["oracle.train=false"], UsageError, "needs oracle.model"),
        (["task=nowhere"], DataError, "nowhere.jsonl"),
        (["data="], UsageError, "not embedded"),
        ([f"{r}.model=m" for r in ("oracle", "teacher", "student")], UsageError, "models = DIR"),
        ([*(f"{r}.model=m" for r in ("oracle", "teacher", "student")), "models=/nowhere"], ModelError, "/nowhere/m"),
        (["groups.sizes.student=['big']", "figures=['sizes']"], UsageError, "width"),
    ],
)
def test_what_is_missing_is_named(data: Path, sets: list[str], error: type[ThackError], told: str) -> None:
    with pytest.raises(error) as raised:
        plan(settings(data, *sets), Path("nowhere"))
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["distill.device=cuda:7"], "device 'cuda:7': "),
        (["axes.target=['sampled:4']", "axes.loss=['jsd']", "figures=['axes']"], "jsd is not defined on sampled"),
        (
            [
                "axes.target=['live/sampled:4']",
                "distill.loss.mix=entropy",
                "distill.loss.entropy_order=2",
                "figures=['axes']",
            ],
            "entropy_order = 2",
        ),
    ],
)
def test_what_no_run_could_do_is_refused_before_anything_is_made(
    data: Path, tmp_path: Path, sets: list[str], told: str
) -> None:
    with pytest.raises(UsageError) as raised:
        run_grid(settings(data, *sets), tmp_path / "out")
    assert told in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="recipes: demo"):
        load_recipe("labtop")


def test_more_prompts_than_the_corpus_has_are_refused_once_before_a_model_is_trained(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"the splits want 10,012 prompts, the corpus has \d+ that fit"):
        run_grid(settings(data, *GRID, "num_sft_prompts=9992"), tmp_path / "out")
    assert {path.name.split("-")[0] for path in (tmp_path / "out" / "stages").glob("[!.]*")} <= {"corpus", "splits"}


def test_the_prompts_information_is_measured_for_f6_alone(grid: tuple[Path, GridResult], data: Path) -> None:
    out, result = grid
    summary = json.loads((out / "experiment.json").read_text())
    (about,) = summary["information"]
    assert about["task"] == "sums" and about["without_prompt"]["mean"] > 0
    informed = {outcome.planned.name for outcome in result.outcomes if outcome.planned.information}
    assert informed == {"offline", "prompts ÷2"}


def test_what_cannot_be_measured_beside_a_run_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(data, "figures=['F6']", "groups.F6.diversity=[1]")
    with monkeypatch.context() as patch:
        patch.setattr(work, "prompt_information", _stumble)
        result = run_grid(chosen, tmp_path)
    assert [outcome.state for outcome in result.outcomes] == ["finished"]
    assert "a bug" in str(result.failed[0].error)
    assert not run_grid(chosen, tmp_path).failed


def test_a_rise_is_compared_with_the_online_path_of_its_seed(data: Path, tmp_path: Path) -> None:
    planned = plan(settings(data, "figures=['F5', 'F6']", "groups.F6.diversity=[1, 2]", "seeds=[0, 1]"), tmp_path)
    for one in planned:
        kind = "hacking" if one.cell.arm.source == "offline" else "healthy"
        write_run(one.run.path, kind, seed=one.cell.seed, num_prompts=64, noise=Noise(prompt=0.02, checkpoint=0.0))
        (one.run.path / "stage.json").write_text("{}")
    alone = [one for one in planned if one.cell.arm.source == "offline"]
    for among, has_path in ((planned, True), (alone, False)):
        for one in alone:
            found = _judged(one, among, {}).verdict
            assert found is not None and found.cause is not None
            # fewer prompts have no path in this grid: that of all of them would be lower for its prompts alone
            basis = "online path" if has_path and one.cell.arm.diversity == 1 else "signals"
            assert (found.cause.basis, found.cause.names) == (basis, ("memorised responses",))
            assert (found.cause.excess is not None) == (basis == "online path")
    assert {one.cell.arm.diversity for one in alone} == {1, 2}


def test_every_method_trains_its_student(data: Path, tmp_path: Path) -> None:
    mixes: list[Method] = ["hard-soft", "hard-soft-confidence", "hard-soft-tsallis", "hard-soft-curriculum"]
    methods: list[Method] = ["sft", "policy-gradient", "guard", *mixes]
    result = run_grid(settings(data, "figures=['axes']", f"axes.method={methods}"), tmp_path)
    assert [outcome.error for outcome in result.outcomes] == [None] * 7
    settings_of = {o.planned.cell.arm.method: o.planned.run.record().settings for o in result.outcomes}
    assert [settings_of[m]["loss.weight"] for m in methods] == [0.0, 0.0, *[1.0] * 5]
    assert [settings_of[m]["loss.ce_weight"] for m in methods] == [1.0, 0.0, 0.0, *[1.0] * 4]
    assert [settings_of[m]["loss.mix"] for m in mixes] == ["entropy", "confidence", "entropy", "curriculum"]
    assert [settings_of[m]["loss.entropy_order"] for m in mixes] == [1.0, 1.0, 0.1, 1.0]
    assert settings_of["policy-gradient"]["loss.policy.weight"] == 1.0 and settings_of["guard"]["guard.on"] is True
    tokens = {o.planned.cell.arm.method: o.tokens for o in result.outcomes}
    soft, online = tokens["hard-soft"], tokens["policy-gradient"]
    assert soft is not None and tokens["sft"] == replace(soft, teacher_scored=0)
    assert online is not None and (online.teacher_wrote, online.teacher_scored) == (0, online.student_wrote)


def test_teacher_consistency_from_responses_to_the_page(data: Path, tmp_path: Path) -> None:
    """The start's responses are scored once; whose responses taught the start is on record, as the run looks for it."""
    method = "groups.consistency.method=['distill', 'offline-policy-gradient']"
    result = run_grid(settings(data, "figures=['consistency']", method), tmp_path)
    assert [outcome.error for outcome in result.outcomes] == [None] * 4
    for one in result.outcomes:
        stages = {stage.kind: stage for stage in with_upstream([one.planned.run])}
        facts = {name: _facts(stages[name].path) for name in ("student", "run")}
        arm = one.planned.cell.arm
        assert facts["student"]["written_by"] == facts["run"]["models"][arm.fine_tuned_on]
        given, by_start = facts["run"]["cache_costs"]["tokens"], arm.method == "offline-policy-gradient"
        assert one.tokens == ResponseTokens(
            teacher_wrote=0 if by_start else given, teacher_scored=given, student_wrote=given if by_start else 0
        )
    page = write_grid_report(tmp_path, tmp_path / "report.html").read_text()
    assert "Every arm beside the plain offline run" in page and "student wrote" in page


def _facts(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "manifest.json").read_text())["facts"])


def test_losses_of_a_student_with_another_tokenizer_end_in_a_table_per_byte(data: Path, tmp_path: Path) -> None:
    axes = {"tokenizer": ["300"], "cross_tokenizer": ["cell", "gold"], "target": ["dense"]}
    sets = [f"groups.tokenizers.{name}={values}" for name, values in axes.items()]
    chosen = settings(data, "figures=['tokenizers']", *sets)
    result = run_grid(chosen, tmp_path)
    assert [outcome.error for outcome in result.outcomes] == [None] * 5
    found = summarise(chosen, tmp_path, result.outcomes)
    assert [(one.tokenizer, one.loss) for one in found.gaps] == [
        *(("300", loss) for loss in ("the cross-entropy alone", "GOLD + cross-entropy", "cells")),
        *(("", loss) for loss in ("the cross-entropy alone", "forward KL")),
    ]
    for one, outcome in zip(found.gaps, result.outcomes, strict=True):
        last = read_rows(outcome.planned.run.path / "metrics.jsonl")[-1]
        assert one.gap.mean == pytest.approx(last["proxy/log_ratio/reference_sampled/byte_mean"])
        golden = outcome.planned.curves().metric("golden")  # of one tokenizer too
        assert str(golden) == "golden/log_ratio/reference_sampled/byte_mean"
    assert next(r for r in found.runs if "tokenizer" in r.arm).bytes_per_token == found.runs[-1].bytes_per_token
    page = write_grid_report(tmp_path, tmp_path / "report.html").read_text()
    assert "gain over the cross-entropy" in page
