"""The stages of each cell: what it needs, with which settings, and which stages cells share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from thack.config.experiment import ExperimentSettings
from thack.experiments.cells import Cell, base_arm
from thack.experiments.pipeline import Pipeline
from thack.experiments.plan import plan
from thack.experiments.stages import Stage, with_upstream
from thack.schema.experiment import ExperimentArm

from .small import settings, write_sums


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> ExperimentSettings:
    return settings(write_sums(tmp_path_factory.mktemp("data")), "lengths.continuation.max_prompt_tokens=9")


def stages(chosen: ExperimentSettings, arm: ExperimentArm, seed: int = 0) -> dict[str, Stage]:
    run = Pipeline(chosen, Path("out")).run(Cell(arm=arm, seed=seed))
    return {stage.kind: stage for stage in with_upstream([run])}


def upstream(stage: Stage) -> set[str]:
    return {need.key for need in stage.needs}


def test_an_offline_run_needs_everything_and_reads_a_cache(chosen: ExperimentSettings) -> None:
    found = stages(chosen, base_arm(chosen))
    assert list(found) == [
        *("corpus", "oracle", "splits", "oracle-responses", "teacher", "student", "eval_set", "cache", "run")
    ]
    assert found["run"].path.parent == Path("out/runs") and found["cache"].path.parent == Path("out/stages")
    assert found["run"].settings["steps"] == 3 * 3 and found["run"].settings["epochs"] == 3


@pytest.mark.parametrize("source", ["online-teacher", "online-student"])
def test_an_online_run_reads_prompts_alone(chosen: ExperimentSettings, source: str) -> None:
    arm = replace(base_arm(chosen), source=source, fraction_online=1.0, target="live")  # type: ignore[arg-type]
    found = stages(chosen, arm)
    assert "cache" not in found and "teacher-responses" not in found
    assert found["run"].settings["source.kind"] == source


def test_a_mixture_reads_the_teachers_responses_and_has_its_share(chosen: ExperimentSettings) -> None:
    arm = replace(base_arm(chosen), source="mixture", fraction_online=0.1, target="live/top-k:4")
    found = stages(chosen, arm)
    assert "teacher-responses" in found and "cache" not in found
    assert found["run"].settings["source.online_fraction"] == 0.1
    assert (found["run"].settings["target.kind"], found["run"].settings["target.k"]) == ("top-k", 4)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dense", {"kind": "dense"}),
        ("top-k:8", {"kind": "top-k", "top_k": 8}),
        ("sampled:3", {"kind": "sampled", "sampled": 3}),
    ],
)
def test_a_cache_keeps_what_the_arm_says(chosen: ExperimentSettings, word: str, expected: dict[str, object]) -> None:
    cache = stages(chosen, replace(base_arm(chosen), target=word))["cache"]
    assert {key: cache.settings[key] for key in expected} == expected


def test_diversity_and_budget_change_prompts_and_samples_but_not_the_steps(chosen: ExperimentSettings) -> None:
    plain = stages(chosen, base_arm(chosen))["run"]
    fewer = stages(chosen, replace(base_arm(chosen), diversity=2))
    assert (fewer["cache"].settings["data.limit"], fewer["cache"].settings["samples"]) == (6, 2)
    more = stages(chosen, replace(base_arm(chosen), budget=3))
    assert (more["cache"].settings["data.limit"], more["cache"].settings["samples"]) == (0, 3)
    assert more["run"].settings["epochs"] == 1, "three times the sequences in as many steps"
    for found in (fewer, more):
        assert found["run"].settings["steps"] == plain.settings["steps"]


def test_cells_share_what_they_have_in_common(chosen: ExperimentSettings) -> None:
    base = base_arm(chosen)
    offline, jsd = stages(chosen, base), stages(chosen, replace(base, loss="jsd"))
    assert {name for name in offline if offline[name].path != jsd[name].path} == {"run"}
    other = stages(chosen, base, seed=1)
    shared = {name for name in offline if offline[name].path == other[name].path}
    assert shared == {"corpus", "oracle"}, "another seed is another replication, under one oracle"
    wider = stages(chosen, replace(base, student="32"))
    assert {name for name in offline if offline[name].path != wider[name].path} == {"student", "run"}


def test_a_student_with_another_tokenizer_shares_all_but_its_own_stages(chosen: ExperimentSettings) -> None:
    base = base_arm(chosen)
    plain = stages(chosen, base)
    arm = replace(base, tokenizer="300", cross_tokenizer="gold", learning_rate=0.25)
    other = stages(chosen, arm)
    assert {name for name in other if name not in plain or other[name].path != plain[name].path} == {
        *("oracle-responses-encoded", "tokenizer", "student", "run")
    }
    assert other["tokenizer"] in other["student"].needs
    assert other["student"].settings["data.max_response_tokens"] == 3 * 8, "its tokens may be shorter"
    run = other["run"].settings
    assert (run["loss.cross_tokenizer"], run["loss.ce_weight"], run["optimizer.learning_rate"]) == ("gold", 1.0, 0.25)
    cell = stages(chosen, replace(arm, cross_tokenizer="cell"))["run"].settings
    assert (cell["loss.cross_tokenizer"], cell["loss.ce_weight"]) == ("cell", 0.0)


def test_an_offline_policy_gradient_scores_what_the_students_start_wrote(chosen: ExperimentSettings) -> None:
    base = replace(base_arm(chosen), budget=2, num_prompts=6)
    plain = stages(chosen, base)
    found = stages(chosen, replace(base, method="offline-policy-gradient", target="top-k:1"))
    assert {name for name in found if name not in plain or found[name].path != plain[name].path} == {
        *("student-responses", "cache", "run")
    }
    written, cache = found["student-responses"], found["cache"]
    assert found["student"].key in upstream(written) and written.key in upstream(cache)
    assert (written.settings["data.limit"], written.settings["samples"]) == (6, 2)
    assert [cache.settings[key] for key in ("data.limit", "samples", "generate", "top_k")] == [0, 1, False, 1]
    run = found["run"].settings
    assert (run["source.kind"], run["loss.weight"], run["loss.policy.weight"]) == ("offline", 0.0, 1.0)
    assert run["loss.policy.importance"] == "none"
    assert run["steps"] == plain["run"].settings["steps"] and run["epochs"] == plain["run"].settings["epochs"]


def test_a_student_that_the_teacher_taught_has_a_stage_of_its_responses(chosen: ExperimentSettings) -> None:
    base = base_arm(chosen)
    plain, found = stages(chosen, base), stages(chosen, replace(base, fine_tuned_on="teacher"))
    assert {name for name in found if name not in plain or found[name].path != plain[name].path} == {
        *("teacher-sft-responses", "student", "run")
    }
    written = found["teacher-sft-responses"]
    assert found["teacher"].key in upstream(written) and written.key in upstream(found["student"])
    other = stages(chosen, replace(base, fine_tuned_on="teacher", tokenizer="300"))
    assert other["teacher-sft-responses"].path == written.path


def test_an_embedded_task_has_its_own_lengths(chosen: ExperimentSettings) -> None:
    assert stages(chosen, base_arm(chosen))["cache"].settings["data.max_prompt_tokens"] == 24
    found = stages(chosen, replace(base_arm(chosen), task="continuation"))
    assert found["cache"].settings["data.max_prompt_tokens"] == 9
    assert found["corpus"].settings["max_prompt_tokens"] == 9


def test_costs_are_estimated_for_every_stage_with_a_model(chosen: ExperimentSettings) -> None:
    found = stages(chosen, base_arm(chosen))
    priced = {name for name, stage in found.items() if stage.cost.operations}
    assert priced == set(found) - {"corpus", "splits"}
    online = replace(base_arm(chosen), source="online-student", fraction_online=1.0, target="live")
    assert stages(chosen, online)["run"].cost.operations > found["run"].cost.operations, "it samples as well"


def test_fewer_prompts_are_the_first_ones_for_as_many_steps(tmp_path: Path) -> None:
    axes = ["axes.num_prompts=[6, 12]", "axes.diversity=[1, 3]", "figures=['axes']"]
    chosen = settings(write_sums(tmp_path / "data"), *axes)
    found = {(p.cell.arm.num_prompts, p.cell.arm.diversity): p.run.settings for p in plan(chosen, tmp_path / "out")}
    sizes = {key: (run["data.limit"], run["steps"], run["epochs"]) for key, run in found.items()}
    assert sizes == {(6, 1): (6, 9, 6), (6, 3): (2, 9, 6), (0, 1): (0, 9, 3), (0, 3): (4, 9, 3)}
