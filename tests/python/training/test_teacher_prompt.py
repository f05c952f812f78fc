"""A teacher that sees more than the student: captured, live, as the student's own start, and in evaluations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.small import ANSWER, CHATML, USER, write_tokenizer
from thack import api
from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.checks.inputs import check_data
from thack.config import (
    CacheSettings,
    CheckpointSettings,
    DataSettings,
    DistillSettings,
    GenerateSettings,
    GuardSettings,
    OptimizerSettings,
    SourceSettings,
)
from thack.data import Record, read_records
from thack.data.date import with_settings
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.data.spool import spool
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, Preempted, UsageError
from thack.evaluation import EvalSet, References
from thack.evaluation.evaluator import Evaluator
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.runtime.progress import SILENT
from thack.runtime.runlog import read
from thack.schema.metrics import PROXY, MetricName, Role, TrainingKL
from thack.training import run_distill

from .small import model, rows, tokenizer
from .world import DATA, build_world, distill_settings, signal_at

TEMPLATE = "it reads {prompt}"


def write_data(path: Path, count: int = 8, start: int = 0, *, own: bool = True) -> Path:
    lines = [
        {"id": f"id{i}", "prompt": f"def f{i}(x)", "response": f" give {i % 3} back"}
        | ({"teacher_prompt": f"file {i % 3} def f{i}(x)"} if own else {})
        for i in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_world(tmp_path_factory.mktemp("world"))
    write_data(root / "own.jsonl")
    write_data(root / "held_out.jsonl", 5, 100)
    return root


def data_of(world: Path, name: str = "own.jsonl", **changes: Any) -> DataSettings:
    return replace(DATA, path=str(world / name), **changes)


def sequences_of(settings: DataSettings) -> list[TokenSequence]:
    stream = DataStream(settings, with_settings(tokenizer(), settings), need_response=True)
    return [s for chunk in stream for s in chunk.sequences]


def by_hand(directory: Path, s: TokenSequence, prompt: np.ndarray) -> Tensor:
    """log_probs_RV in float64: the model reads prompt and response as one row."""
    one = TokenSequence(example=0, prompt_id="x", prompt_ids=prompt, response_ids=s.response_ids)
    with torch.no_grad():
        logits_RV = load_model(directory)(Batch.of([one]))
    return logits_RV.double()[:, : tokenizer().size].log_softmax(dim=1)


def settings_of(world: Path, out: Path, **changes: Any) -> DistillSettings:
    given = {"cache": "", "data": data_of(world), "eval_data": str(world / "held_out.jsonl"), "epochs": 1, "oracle": ""}
    return distill_settings(world, out, **given | changes)


def test_a_column_a_template_and_the_name_of_a_column_give_the_teacher_its_prompt(world: Path, tmp_path: Path) -> None:
    first = sequences_of(data_of(world))[0]
    assert first.teacher_prompt_ids is not None
    assert tokenizer().decode(first.prompt_ids) == "def f0(x)"
    assert tokenizer().decode(first.teacher_prompt_ids) == "file 0 def f0(x)"
    plain = data_of(world, "prompts.jsonl", teacher_template=TEMPLATE)
    filled = sequences_of(plain)[0]
    assert filled.teacher_prompt_ids is not None
    assert tokenizer().decode(filled.teacher_prompt_ids) == "it reads def f0(x)"
    text = (world / "own.jsonl").read_text().replace("teacher_prompt", "hinted")
    (tmp_path / "renamed.jsonl").write_text(text)
    named = replace(DATA, path=str(tmp_path / "renamed.jsonl"), teacher_prompt_key="hinted")
    assert data_fingerprint(sequences_of(named)) == data_fingerprint(sequences_of(data_of(world)))
    without = replace(DATA, path=str(write_data(tmp_path / "without.jsonl", own=False)))
    assert data_fingerprint(sequences_of(without)) != data_fingerprint(sequences_of(named))
    spooled = spool(DataStream(data_of(world), tokenizer(), need_response=True), tmp_path)
    spooled._room = -1
    again = spooled[0]
    assert again.teacher_prompt_ids is not None and np.array_equal(again.teacher_prompt_ids, first.teacher_prompt_ids)


def refusal(tmp_path: Path, row: dict[str, Any], **changes: Any) -> str:
    path = tmp_path / "row.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        sequences_of(replace(DATA, path=str(path), **changes))
    return f"{caught.value.message} {' '.join(caught.value.details)}"


def chat(directory: Path, rows: list[dict[str, Any]], template: str = CHATML, **changes: Any) -> list[TokenSequence]:
    """What becomes of conversations, with a tokenizer of bytes."""
    write_tokenizer(directory / "model", template=template)
    path = directory / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = DataSettings(path=str(path), **changes)
    stream = DataStream(settings, with_settings(Tokenizer.load(directory / "model"), settings), need_response=True)
    return [s for chunk in stream for s in chunk.sequences]


def said(s: TokenSequence, directory: Path) -> tuple[str, str]:
    known = Tokenizer.load(directory / "model")
    assert s.teacher_prompt_ids is not None
    return known.text(s.prompt_ids.tolist()), known.text(s.teacher_prompt_ids.tolist())


def test_a_system_text_stands_before_the_conversation_of_the_teacher_alone(tmp_path: Path) -> None:
    (first, *_) = chat(tmp_path, [{"messages": [USER, ANSWER]}], teacher_system="be brief")
    own, teacher = said(first, tmp_path)
    assert own == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert teacher == "<|im_start|>system\nbe brief<|im_end|>\n" + own
    system = {"role": "system", "content": "be long"}
    (replaced, *_) = chat(tmp_path, [{"messages": [system, USER, ANSWER]}], teacher_system="be brief")
    assert "be long" in said(replaced, tmp_path)[0] and said(replaced, tmp_path)[1] == teacher
    turns = [{"role": "user", "content": "hint"}, USER]
    (given, *_) = chat(tmp_path, [{"messages": [USER, ANSWER], "teacher_prompt": turns}], teacher_template="{prompt}!")
    assert said(given, tmp_path)[1] == (
        "<|im_start|>user\nhint<|im_end|>\n<|im_start|>user\nhi!<|im_end|>\n<|im_start|>assistant\n"
    )
    several = chat(tmp_path, [{"messages": [USER, ANSWER, USER, ANSWER]}], teacher_system="be brief", train_on="all")
    assert [said(s, tmp_path)[1].count("be brief") for s in several] == [1, 1]


def test_a_response_that_is_rendered_otherwise_is_refused_with_its_first_token(tmp_path: Path) -> None:
    """A template that shows the assistant's turn in another way where there is a system text."""
    template = CHATML.replace(
        "+ m.content +", "+ ('o!' if messages[0].role == 'system' and m.content == 'ok' else m.content) +"
    )
    with pytest.raises(DataError) as caught:
        chat(tmp_path, [{"messages": [USER, ANSWER]}], template, teacher_system="be brief")
    text = f"{caught.value.message} {' '.join(caught.value.details)}"
    assert "behind the teacher's prompt: token 1 of it is 'k' for the student and '!' for the teacher" in text
    rows_given = [{"messages": [USER, ANSWER]}, {"messages": [USER, {"role": "assistant", "content": "fine"}]}]
    kept = chat(tmp_path, rows_given, template, teacher_system="be brief", on_bad_line="skip")
    assert len(kept) == 1


def test_prompts_of_another_form_are_refused(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x"}]
    pair = {"prompt": "x", "response": "y"}
    assert "is a list of turns" in refusal(tmp_path, pair | {"teacher_prompt": turns})
    assert "for conversations" in refusal(tmp_path, pair, teacher_system="be brief")
    assert "raw `text`" in refusal(tmp_path, {"text": "y", "teacher_prompt": "x"})
    assert "ends with a turn of the assistant" in refusal(
        tmp_path, pair | {"teacher_prompt": [*turns, {"role": "assistant", "content": "y"}]}
    )
    path = tmp_path / "row.jsonl"
    path.write_text(json.dumps(pair) + "\n")
    with pytest.raises(UsageError, match=r"has no \{prompt\}"):
        check_data(replace(DATA, path=str(path), teacher_template="be brief"))


def test_a_cache_holds_the_students_prompts_and_what_the_teacher_says_behind_its_own(
    world: Path, tmp_path: Path
) -> None:
    teacher = str(world / "teacher")
    settings = CacheSettings(out=tmp_path / "cache", teacher=teacher, data=data_of(world), kind="dense", device="cpu")
    capture(settings, SILENT)
    cache = Cache.open(tmp_path / "cache")
    assert cache.plan.teacher_prompts
    for position, given in enumerate(sequences_of(data_of(world))[:3]):
        (stored,), target = cache.targets([position])
        assert np.array_equal(stored.prompt_ids, given.prompt_ids) and given.teacher_prompt_ids is not None
        expected_RV = by_hand(world / "teacher", given, given.teacher_prompt_ids)
        found_RV = target.log_probs_NV.double()  # type: ignore[union-attr]
        other_RV = by_hand(world / "teacher", given, given.prompt_ids)
        off, other = (float((found_RV - log_p_RV).abs().max()) for log_p_RV in (expected_RV, other_RV))
        assert off < 0.02 and other > 5 * off  # as the cache rounds
    capture(replace(settings, out=tmp_path / "plain", data=data_of(world, "prompts.jsonl")), SILENT)
    assert b"teacher_prompts" not in (tmp_path / "plain" / "plan.json").read_bytes()


def test_the_teacher_writes_from_its_own_prompt(world: Path, tmp_path: Path) -> None:
    settings = CacheSettings(
        out=tmp_path / "cache",
        teacher=str(world / "teacher"),
        data=data_of(world),
        kind="dense",
        generate=True,
        device="cpu",
    )
    capture(settings, SILENT)
    path = tmp_path / "own_as_prompt.jsonl"
    lines = [json.loads(line) for line in (world / "own.jsonl").read_text().splitlines()]
    path.write_text("".join(json.dumps({"id": r["id"], "prompt": r["teacher_prompt"]}) + "\n" for r in lines))
    capture(replace(settings, out=tmp_path / "other", data=replace(DATA, path=str(path))), SILENT)
    ours, other = Cache.open(tmp_path / "cache"), Cache.open(tmp_path / "other")
    assert all(
        np.array_equal(ours.sequences(i).response_ids, other.sequences(i).response_ids) for i in range(len(ours))
    )


def test_a_live_run_minimises_the_distance_to_what_the_teacher_says_behind_its_own_prompt(
    world: Path, tmp_path: Path
) -> None:
    run_distill(settings_of(world, tmp_path / "run", batch_size=8, steps=1))
    nats, tokens = 0.0, 0
    for s in sequences_of(data_of(world)):
        assert s.teacher_prompt_ids is not None
        log_p_RV = by_hand(world / "teacher", s, s.teacher_prompt_ids)
        log_q_RV = by_hand(world / "student", s, s.prompt_ids)
        nats += float((log_p_RV.exp() * (log_p_RV - log_q_RV)).sum())
        tokens += len(s.response_ids)
    step = next(row for row in rows(tmp_path / "run") if row["event"] == "train")
    assert step["tokens"] == tokens and step["loss"] == pytest.approx(nats / tokens, rel=1e-4)


def test_the_proxy_is_the_distance_to_the_teacher_with_its_own_prompt(world: Path, tmp_path: Path) -> None:
    teacher, student, oracle = (load_model(world / role) for role in ("teacher", "student", "oracle"))
    held_out = EvalSet.from_records(read_records(world / "held_out.jsonl", "stop"))
    held_out = held_out.with_responses(References(teacher=teacher, oracle=oracle), max_new_tokens=5)
    held_out.save(tmp_path / "eval_set")
    again = EvalSet.load(tmp_path / "eval_set")
    assert again.fingerprint() == held_out.fingerprint() and len(again.teacher_prompts) == 5
    found = Evaluator(again, References(teacher=teacher, oracle=oracle)).evaluate(student)
    nats, over, tokens = 0.0, 0.0, 0
    for s in again.sequences(Role.TEACHER):
        assert s.teacher_prompt_ids is not None
        log_p_RV = by_hand(world / "teacher", s, s.teacher_prompt_ids)
        log_q_RV = by_hand(world / "student", s, s.prompt_ids)
        nats += float((log_p_RV.exp() * (log_p_RV - log_q_RV)).sum())
        tokens += len(s.response_ids)
    assert found.columns[PROXY] == pytest.approx(nats / tokens, rel=1e-4)
    tokens = 0
    for s in again.sequences(Role.ORACLE):  # the oracle reads what the student reads, the teacher its own
        assert s.teacher_prompt_ids is not None
        log_p_RV = by_hand(world / "oracle", s, s.prompt_ids)
        log_q_RV = by_hand(world / "teacher", s, s.teacher_prompt_ids)
        over += float((log_p_RV.exp() * (log_p_RV - log_q_RV)).sum())
        tokens += len(s.response_ids)
    baseline = MetricName(role=Role.ORACLE, baseline=True)
    assert found.columns[baseline] == pytest.approx(over / tokens, rel=1e-4)


def test_the_students_own_start_with_a_hint_is_a_teacher(world: Path, tmp_path: Path) -> None:
    """Context distillation: with the hint there is something to learn, without it nothing."""
    start = model(3)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    start.save(tmp_path / "start")
    same = {"student": str(tmp_path / "start"), "teacher": str(tmp_path / "start"), "epochs": 8}
    steady = OptimizerSettings(learning_rate=2e-3, warmup_steps=0)
    run_distill(settings_of(world, tmp_path / "hinted", **same, optimizer=steady))
    lines = rows(tmp_path / "hinted")
    losses = [row["loss"] for row in lines if row["event"] == "train"]
    assert losses[0] > 0.02 and np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4]), losses
    write_data(tmp_path / "without.jsonl", own=False)
    data = replace(DATA, path=str(tmp_path / "without.jsonl"))
    run_distill(
        settings_of(world, tmp_path / "same", **same | {"epochs": 1, "data": data, "eval_data": "", "steps": 1})
    )
    step = next(row for row in rows(tmp_path / "same") if row["event"] == "train")
    assert step["loss"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("kind", ["online-student", "online-teacher"])
def test_a_run_that_stopped_within_a_window_resumes_to_the_bit(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    changes = {
        "source": SourceSettings(kind=kind, refresh_steps=3),
        "checkpoint": CheckpointSettings(every_steps=1),
        "eval_data": "",
        "steps": 4,
    }
    run_distill(settings_of(world, tmp_path / "whole", **changes))
    settings = settings_of(world, tmp_path / "stopped", **changes)
    with monkeypatch.context() as patch:
        signal_at(patch, 2)
        with pytest.raises(Preempted):
            run_distill(settings)
    run_distill(settings)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


def test_beside_a_cache_the_live_teacher_scores_held_out_prompts_alone(world: Path, tmp_path: Path) -> None:
    teacher = str(world / "teacher")
    capture(CacheSettings(out=tmp_path / "cache", teacher=teacher, data=data_of(world), top_k=8, device="cpu"), SILENT)
    settings = settings_of(world, tmp_path / "run", cache=str(tmp_path / "cache"), data=DATA, steps=2)
    run_distill(settings)
    evaluated = [row for row in read(tmp_path / "run" / "metrics.jsonl") if row["event"] == "evaluation"]
    assert all(str(PROXY) in row and str(TrainingKL.FRESH) not in row for row in evaluated)
    guarded = replace(settings, out=tmp_path / "guarded", guard=GuardSettings(on=True))
    with pytest.raises(UsageError, match="which read prompts of its own"):
        run_distill(guarded)


def test_what_reads_one_prompt_alone_refuses_it(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="generate writes from the prompt"):
        api.generate(
            GenerateSettings(out=tmp_path / "out", model=str(world / "teacher"), data=data_of(world), device="cpu")
        )


def test_records_with_the_same_prompt_may_differ_in_the_teachers() -> None:
    assert Record(prompt_id="a", prompt="x", teacher_prompt="y") != Record(prompt_id="a", prompt="x")
