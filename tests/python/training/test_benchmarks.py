"""Tasks of lm-evaluation-harness at the evaluations of a run: local task files, numbers by definition."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="SKIPPED: benchmarks need lm-evaluation-harness: pip install 'thack[eval]'")

from thack import api
from thack.checks import check_combination, check_evaluate
from thack.config import CheckpointSettings, DistillSettings, EvaluateSettings, EvaluationSettings, GuardSettings
from thack.data.sequence import TokenSequence
from thack.errors import Preempted, UsageError
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.runtime.runlog import read
from thack.training import run_distill

from .small import rows, tokenizer
from .world import build_world, distill_settings, signal_at

# The harness's own dependencies warn of each other.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
TASK = """task: choose
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""
DOCUMENTS = [{"question": f"def f{i}", "choices": ["read", "file", "path"], "answer": i % 3} for i in range(6)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_world(tmp_path_factory.mktemp("world"))
    os.environ["HF_DATASETS_CACHE"] = str(root / "datasets")
    (root / "tasks").mkdir()
    (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    (root / "tasks" / "choose.yaml").write_text(TASK.format(data=root / "data.jsonl"))
    return root


def settings(world: Path, out: Path, **changes: Any) -> DistillSettings:
    chosen = EvaluationSettings(
        count=2, bootstrap=20, student_samples=False, tasks=("choose",), tasks_path=str(world / "tasks"), **changes
    )
    every = CheckpointSettings(every_steps=1, keep=9)
    return distill_settings(world, out, epochs=1, evaluation=chosen, checkpoint=every)


def by_definition(student: Path) -> float:
    """Share of documents whose answer has the largest log-likelihood behind `question answer`, in float64."""
    model, right = load_model(student), 0
    for document in DOCUMENTS:
        nats = []
        for choice in document["choices"]:  # type: ignore[attr-defined]
            context = tokenizer().encode(str(document["question"]))
            answer = tokenizer().encode(f"{document['question']} {choice}")[len(context) :]
            one = TokenSequence(example=0, prompt_id="x", prompt_ids=context, response_ids=answer)
            with torch.no_grad():
                log_q_NV = model(Batch.of([one])).double().log_softmax(dim=1)
            nats.append(float(log_q_NV[torch.arange(len(answer)), torch.from_numpy(answer).long()].sum()))
        right += max(range(3), key=nats.__getitem__) == document["answer"]
    return right / len(DOCUMENTS)


def test_scores_are_those_of_the_definition_at_every_evaluation_and_resume(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_distill(settings(world, tmp_path / "whole", tasks_at="every"))
    evaluated = [row for row in read(tmp_path / "whole" / "metrics.jsonl") if row["event"] == "evaluation"]
    assert all("benchmark/choose/acc" in row and "benchmark/choose/acc/stderr" in row for row in evaluated)
    assert evaluated[0]["benchmark/choose/acc"] == pytest.approx(by_definition(world / "student"))
    assert evaluated[-1]["benchmark/choose/acc"] == pytest.approx(by_definition(tmp_path / "whole" / "model"))
    stopped = settings(world, tmp_path / "stopped", tasks_at="every")
    with monkeypatch.context() as patch:
        signal_at(patch, 3)
        with pytest.raises(Preempted):
            run_distill(stopped)
    run_distill(stopped)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    page = api.report(tmp_path / "whole", tmp_path / "report.html").read_text()
    assert "Benchmarks beside golden and proxy" in page


def test_at_the_end_alone_and_on_few_documents(world: Path, tmp_path: Path) -> None:
    run_distill(settings(world, tmp_path / "run", tasks_limit=2))
    evaluated = [row for row in read(tmp_path / "run" / "metrics.jsonl") if row["event"] == "evaluation"]
    assert ["benchmark/choose/acc" in row for row in evaluated] == [False] * (len(evaluated) - 1) + [True]


def test_at_the_end_of_a_run_that_its_guard_ends(world: Path, tmp_path: Path) -> None:
    """60 steps are planned; whatever the student does, the alarm comes at the second judged evaluation, step 50."""
    given = settings(world, tmp_path / "run", tasks_limit=2)
    evaluation = replace(given.evaluation, count=6, spacing="linear")
    guard = GuardSettings(on=True, policy="stop", threshold=50.0)
    assert run_distill(replace(given, epochs=12, guard=guard, evaluation=evaluation)).steps == 50
    evaluated = [row for row in rows(tmp_path / "run") if row["event"] == "evaluation"]
    assert [row["step"] for row in evaluated if "benchmark/choose/acc" in row] == [50]


def test_what_is_not_there_is_refused(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(world, tmp_path / "run")
    from thack.evaluation import harness as module

    harness: Any = module

    def own(include_path: str | None, include_defaults: bool) -> Any:
        return made(include_path=include_path, include_defaults=False)  # the harness's thousands take a minute

    made = harness.TaskManager
    monkeypatch.setattr(harness, "TaskManager", own)
    with pytest.raises(UsageError, match="knows no absent"):
        harness._manager(("absent",), given.evaluation.tasks_path)
    nowhere = replace(given, evaluation=replace(given.evaluation, tasks_path=str(tmp_path / "nowhere")))
    with pytest.raises(UsageError, match="is no directory"):
        check_combination(nowhere)
    without = replace(given, evaluation=replace(given.evaluation, tasks=()))
    with pytest.raises(UsageError, match="and no task"):
        check_combination(without)
    evaluated = EvaluateSettings(student="s", teacher="t", eval_data="e", evaluation=given.evaluation)
    with pytest.raises(UsageError, match="runs no tasks"):
        check_evaluate(evaluated)
