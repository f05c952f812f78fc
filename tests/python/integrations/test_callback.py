"""HackingCallback inside transformers' own Trainer: the columns of `thack evaluate`, and nothing disturbed."""

from __future__ import annotations

import doctest
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from thack import EvalSet, HackingCallback, api
from thack.config import EvaluationSettings
from thack.data.tokenizer import Tokenizer
from thack.detection import Curves
from thack.errors import DataError, MismatchError, UsageError
from thack.evaluation import References, evaluate
from thack.integrations import CallbackSettings
from thack.integrations import callback as module
from thack.reporting.inputs import read_run
from thack.runtime import runlog
from thack.schema.metrics import PROXY as PROXY_METRIC
from thack.schema.verdict import Margins

from .small import arguments, llama

PROXY = "proxy/forward_kl/reference_sampled/token_mean"
GOLDEN = PROXY.replace("proxy", "golden")
EVALUATION = EvaluationSettings(student_samples=False, bootstrap=20)
SETTINGS = CallbackSettings(evaluation=EVALUATION)


class PairedData(torch.utils.data.Dataset[dict[str, Any]]):
    """Token ids for plain supervised fine-tuning."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.tensor([(7 * index + k) % 250 + 2 for k in range(6)])
        return {"input_ids": ids, "labels": ids}


def train(path: Path, student: Any, callbacks: list[Any], **options: Any) -> Any:
    trainer = transformers.Trainer(
        model=student, args=arguments(path, **options), train_dataset=PairedData(), callbacks=callbacks
    )
    trainer.train()
    return trainer


@pytest.fixture
def callback(eval_set: EvalSet, tokenizer: Tokenizer) -> HackingCallback:
    return HackingCallback(eval_set, teacher=llama(8), oracle=llama(7), every=2, tokenizer=tokenizer, settings=SETTINGS)


def test_training_is_undisturbed(callback: HackingCallback, tmp_path: Path) -> None:
    """Weights after training, dropout on, are those of a run without the callback, to the bit."""
    with_it, without = llama(1), llama(1)
    train(tmp_path / "a", with_it, [callback])
    train(tmp_path / "b", without, [])
    for ours, theirs in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not with_it.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("name", ["count", "every", "tasks_limit"])
def test_settings_of_a_run_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"evaluation\.{name} belongs to `thack distill`"):
        CallbackSettings(evaluation=EvaluationSettings(**{name: 3}))  # type: ignore[arg-type]


def test_columns_are_those_of_evaluate(
    callback: HackingCallback, eval_set: EvalSet, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    student = llama(1)
    trainer = train(tmp_path, student, [callback])
    rows = [row for row in trainer.state.log_history if PROXY in row]
    assert [row["step"] for row in rows] == [0, 2, 4]
    expected = evaluate(student.eval(), eval_set, callback.references, tokenizer=tokenizer, settings=EVALUATION).named()
    shown = {name for name in expected if not name.endswith(("/low", "/high"))}
    assert shown <= rows[-1].keys()
    assert {name.split("/")[0] for name in shown} == {
        "golden",
        "proxy",
        "baseline",
        "human",
        "human_baseline",
        "health",
    }
    for column in shown:
        assert rows[-1][column] == pytest.approx(expected[column], rel=1e-5), column
    assert not any(name.endswith("/low") for name in rows[-1])
    assert "detector/alarm" in rows[-1]


def test_the_folder_is_a_run(callback: HackingCallback, eval_set: EvalSet, tmp_path: Path) -> None:
    """All that a report reads: intervals, the training loss, samples, verdict.json; and trainer_state.json."""
    trainer = train(tmp_path, llama(1), [callback], max_steps=14)
    folder = tmp_path / "thack"
    rows = runlog.read(folder / "metrics.jsonl")
    evaluations = [row for row in rows if row["event"] == "evaluation"]
    assert [row["step"] for row in evaluations] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert f"{PROXY}/low" in evaluations[0]
    assert len([row for row in rows if row["event"] == "train"]) == 14
    assert json.loads((folder / "verdict.json").read_text())["golden"] is None, "all within the warm-up"
    found: Any = api.verdict(folder, margins=Margins(warmup_steps=0))
    assert found.num_evaluations == 7 and found.num_prompts == 10 and found.golden.rise_interval is not None
    assert callback.verdict is not None and callback.suspicion is not None
    run = read_run(folder, None, None)
    kept = SETTINGS.evaluation.kept_prompts
    assert {row.prompt_id for row in run.samples} == set(eval_set.ids[:kept])
    assert {row.step for row in run.samples} == {row["step"] for row in evaluations}
    assert run.prompts == dict(zip(eval_set.ids, eval_set.texts, strict=True))
    trainer.state.save_to_json(str(tmp_path / "trainer_state.json"))
    again: Any = api.verdict(tmp_path / "trainer_state.json", margins=Margins(warmup_steps=0))
    assert again.golden.end == pytest.approx(found.golden.end)


def random_state() -> tuple[Any, ...]:
    arrays: Any = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), arrays[1].tolist()


def test_random_state_and_train_modes_are_left_alone(callback: HackingCallback, tmp_path: Path) -> None:
    student = llama(1).train()
    student.model.layers[0].eval()  # a frozen part that its owner keeps in eval mode
    modes = [module.training for module in student.modules()]
    state, control = transformers.TrainerState(), transformers.TrainerControl()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = random_state()
    callback.on_train_begin(arguments(tmp_path), state, control, model=student)
    torch.manual_seed(5)  # TrainingArguments may draw; the callback may not
    callback.on_step_end(arguments(tmp_path), state, control, model=student)
    assert random_state() == before
    assert [module.training for module in student.modules()] == modes
    callback.on_train_end(arguments(tmp_path), state, control, model=student)


def test_a_monitor_lets_the_detector_compare(
    eval_set: EvalSet, records: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    references = References.of(teacher=llama(8), tokenizer=tokenizer)
    trained = replace(references, human=True)
    monitor = EvalSet.from_records(records[:4]).with_responses(trained, max_new_tokens=8)
    settings = replace(SETTINGS, stop_on_alarm=True)
    common: dict[str, Any] = {"teacher": references.teacher, "tokenizer": tokenizer, "settings": settings}
    callback = HackingCallback(eval_set, every=2, monitor=monitor, **common)
    train(tmp_path, llama(1), [callback])
    curves = Curves.from_run(tmp_path / "thack")
    assert len(curves.of("monitor")) == len(curves.of("fresh")) == 3
    assert curves.column_of["golden"].startswith("human/")
    bare = EvalSet.from_records(records[:4]).with_responses(references, max_new_tokens=8)
    lame = HackingCallback(eval_set, monitor=bare, **common)
    with pytest.raises(DataError, match="the monitor has no training responses"):
        train(tmp_path / "b", llama(1), [lame])


def test_a_student_with_another_tokenizer(
    records: Any, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    theirs = Tokenizer.train(["dive back, five of them: give some def of it"] * 9, 270)
    references = References.of(teacher=llama(8), tokenizer=theirs)
    trained = replace(references, human=True)
    held_out = EvalSet.from_records(records).with_responses(references, readers=[tokenizer], max_new_tokens=8)
    monitor = EvalSet.from_records(records[:4]).with_responses(trained, max_new_tokens=8)
    common: dict[str, Any] = {"tokenizer": tokenizer, "settings": SETTINGS, "teacher": references.teacher}
    callback = HackingCallback(held_out, every=2, monitor=monitor, **common)
    train(tmp_path, llama(1), [callback])
    curves = Curves.from_run(tmp_path / "thack")
    assert curves.is_per_byte and len(curves.of("proxy")) == 3
    assert len(curves.of("monitor")) == len(curves.of("fresh")) == 3
    assert callback.suspicion is not None
    expected = evaluate(llama(1), held_out, callback.references, tokenizer=tokenizer, settings=EVALUATION).columns
    assert curves.of("proxy").value[0] == pytest.approx(expected[PROXY_METRIC.per_byte], rel=1e-5)
    own = References.of(teacher=llama(8), human=True, tokenizer=tokenizer)
    other = EvalSet.from_records(records[:4]).with_responses(own, max_new_tokens=8)
    with pytest.raises(MismatchError, match="in the ids of another tokenizer than the teacher's"):
        train(tmp_path / "b", llama(1), [HackingCallback(held_out, monitor=other, **common)])


def test_the_trainers_trackers_get_the_columns(callback: HackingCallback, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Tracker(transformers.TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append(dict(logs))

    trainer = transformers.Trainer(
        model=llama(1), args=arguments(tmp_path), train_dataset=PairedData(), callbacks=[callback, Tracker()]
    )
    callback.trainer = trainer
    trainer.train()
    assert len([row for row in seen if PROXY in row]) == 3
    assert len([row for row in trainer.state.log_history if PROXY in row]) == 3


def test_mistakes_are_reported_before_the_first_step(eval_set: EvalSet, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every = 0"):
        HackingCallback(eval_set, every=0)
    with pytest.raises(UsageError, match="compares the student with its teacher"):
        HackingCallback(eval_set, monitor=eval_set)
    with pytest.raises(UsageError, match="does not know its tokenizer"):
        HackingCallback(eval_set, teacher=llama(8))
    with pytest.raises(MismatchError, match="written by another model"):
        train(tmp_path / "b", llama(1), [HackingCallback(eval_set, teacher=llama(9), tokenizer=tokenizer)])


def test_a_resumed_run_writes_each_row_once(callback: HackingCallback, tmp_path: Path) -> None:
    state, control = transformers.TrainerState(), transformers.TrainerControl()
    student, args = llama(1), arguments(tmp_path)
    for steps in (range(0, 6), range(4, 7)):  # saved at step 4, killed at 5, run again from 4
        state.global_step = steps[0]
        callback.on_train_begin(args, state, control, model=student)
        for step in steps[1:]:
            state.global_step = step
            callback.on_step_end(args, state, control, model=student)
            callback.on_log(args, state, control, logs={"loss": 1.0})
    callback.on_train_end(args, state, control, model=student)
    for name in ("metrics", "per_prompt", "samples"):
        seen = [row["step"] for row in runlog.read(tmp_path / "thack" / f"{name}.jsonl") if row.get("event") != "train"]
        assert sorted(set(seen)) == [0, 2, 4, 6], name
        assert len(set(map(seen.count, seen))) == 1, "a step that runs again has its rows once"


def test_the_example_runs(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "def f(x)"}\n{"prompt": "def g(x)"}\n')
    trainer = transformers.Trainer(model=llama(1), args=arguments(tmp_path), train_dataset=PairedData())
    values = {"held_out": tmp_path / "held_out.jsonl", "teacher": llama(8)}
    values |= {"trainer": trainer, "tokenizer": tokenizer}
    found = doctest.testmod(module, extraglobs=values)
    assert found.attempted == 3 and not found.failed
    trainer.train()
    assert (tmp_path / "thack" / "metrics.jsonl").is_file()
