# ruff: noqa: F811 - pytest finds a fixture by its name
"""Guarded runs: they notice memorisation, act on it, and resume to the bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from thack.checks import check_combination
from thack.config import (
    DistillSettings,
    EvaluationSettings,
    GuardSettings,
    SamplingSettings,
    SourceSettings,
    TargetSettings,
)
from thack.data.sequence import TokenSequence
from thack.detection import Curves, verdict
from thack.errors import Preempted, UsageError
from thack.generation.sampler import GenerationRequest
from thack.generation.sources import Growing, Offline
from thack.schema import document
from thack.training import guarded_data, run_distill
from thack.training.checkpoint import checkpoints, read_snapshot
from thack.training.guard import Guard, GuardState, RaisedAlarm
from thack.training.guarded_data import _samples
from thack.training.run_directory import RunDirectory

from .small import rows, sequences
from .test_runs import world  # noqa: F401
from .world import distill_settings, signal_at

ALWAYS = 50.0  # as a slope ratio: below it whatever the student does


def guarded(world: Path, out: Path, **changes: Any) -> DistillSettings:
    """60 steps in 12 epochs, evaluated every 10; the alarm comes at step 50, the second judged evaluation."""
    guard = GuardSettings(on=True, threshold=ALWAYS, **{"budget": 2, "every": 1, "then": "continue", **changes})
    evaluation = EvaluationSettings(count=6, spacing="linear", bootstrap=50, student_samples=False)
    return distill_settings(world, out, epochs=12, guard=guard, evaluation=evaluation)


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that refreshed twice, never stopped."""
    return run_distill(guarded(world, tmp_path_factory.mktemp("whole") / "run")).path


def events(path: Path) -> list[dict[str, Any]]:
    return [row for row in rows(path) if row["event"] == "guard"]


def test_new_responses_join_on_schedule_and_are_counted(whole: Path) -> None:
    alarm, first, second = events(whole)
    assert (alarm["action"], alarm["step"], alarm["kept_step"]) == ("alarm", 50, 40)
    assert alarm["detector"] == "fresh slope ratio" and alarm["value"] < alarm["threshold"] == ALWAYS
    assert [(e["action"], e["step"], e["epoch"]) for e in (first, second)] == [("refresh", 51, 10), ("refresh", 56, 11)]
    by_step = {row["step"]: row for row in rows(whole) if row["event"] == "train"}
    assert by_step[50]["generated_tokens"] == 0
    assert by_step[51]["generated_tokens"] == first["fresh_tokens"]
    assert by_step[60]["generated_tokens"] == first["fresh_tokens"] + second["fresh_tokens"]
    assert by_step[50]["teacher_tokens"] == 0 < by_step[60]["teacher_tokens"]
    assert sorted(path.name for path in (whole / "fresh").iterdir()) == ["set_000.jsonl", "set_001.jsonl"]
    assert "step_000040" in [path.name for path in checkpoints(whole / "checkpoints")]
    assert [row["step"] for row in rows(whole) if row["event"] == "evaluation"][-3:] == [50, 55, 60]
    assert verdict(Curves.from_run(whole)).num_evaluations == 4


def test_the_state_is_in_the_checkpoint(whole: Path) -> None:
    found = read_snapshot(checkpoints(whole / "checkpoints")[-1]).state.hooks["guard"]
    state = document.parse(GuardState, found, "guard")
    assert state.alarm is not None and state.alarm.step == 50 and state.written == (0, 1)
    assert [seen.step for seen in state.history] == [0, 10, 20, 30, 40, 50]


def cut_and_resumed(settings: DistillSettings) -> Path:
    for step in (50, 53):  # at the alarm, and within an epoch that a set has joined
        with pytest.MonkeyPatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(Preempted):
                run_distill(settings)
    return run_distill(settings).path


def assert_same(cut: Path, whole: Path) -> None:
    assert rows(cut) == rows(whole)
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (cut, whole)]
    assert weights[0] == weights[1]


def test_a_run_that_refreshes_resumes_to_the_bit(world: Path, whole: Path, tmp_path: Path) -> None:
    assert_same(cut_and_resumed(guarded(world, tmp_path / "cut")), whole)


def test_a_run_that_goes_online_resumes_to_the_bit(world: Path, tmp_path: Path) -> None:
    online = run_distill(guarded(world, tmp_path / "whole", policy="raise-online")).path
    assert_same(cut_and_resumed(guarded(world, tmp_path / "cut", policy="raise-online")), online)
    assert rows(online)[-1]["generated_tokens"] > 0


def test_a_new_start_reads_no_set_of_an_earlier_one(world: Path, whole: Path, tmp_path: Path) -> None:
    """Without checkpoints a run begins anew, with other settings if it is given them."""
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    for folder in ("checkpoints", "model"):
        shutil.rmtree(copy / folder)
    sets = [path.read_bytes() for path in sorted((copy / "fresh").iterdir())]
    run_distill(replace(guarded(world, copy), seed=5))
    assert [path.read_bytes() for path in sorted((copy / "fresh").iterdir())] != sets


def test_a_set_written_after_the_last_checkpoint_is_counted_once(
    world: Path,
    whole: Path,
    tmp_path: Path,
) -> None:
    """Killed between writing a set and the next checkpoint: the file is there, the account is not."""
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "model")
    for directory in checkpoints(copy / "checkpoints"):
        if directory.name != "step_000040":
            shutil.rmtree(directory)
    assert rows(run_distill(guarded(world, copy)).path) == rows(whole)


def test_a_run_that_stops_publishes_the_checkpoint_before_the_alarm(world: Path, tmp_path: Path) -> None:
    settings = guarded(world, tmp_path / "run", policy="stop")
    result = run_distill(settings)
    assert result.steps == 50 and [e["action"] for e in events(result.path)] == ["alarm"]
    status = json.loads((result.path / "STATUS.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 50)
    kept = result.path / "checkpoints" / "step_000040"
    assert (result.model / "model.safetensors").read_bytes() == (kept / "model.safetensors").read_bytes()
    assert run_distill(settings) == result


def test_a_run_ends_once_its_budget_is_used(world: Path, tmp_path: Path) -> None:
    """One set joins in epoch 10, so the end is at step 55: evaluated, saved and published there."""
    settings = guarded(world, tmp_path / "run", budget=1, then="stop")
    result = run_distill(settings)
    found = rows(result.path)
    assert result.steps == 55
    assert events(result.path)[-1] == {"event": "guard", "step": 55, "action": "stop"}
    assert [row["step"] for row in found if row["event"] == "evaluation"] == [0, 10, 20, 30, 40, 50, 55]
    last = result.path / "checkpoints" / "step_000055"
    assert (result.model / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()
    assert run_distill(settings) == result
    assert_same(cut_and_resumed(replace(settings, out=tmp_path / "cut")), result.path)


def test_without_an_alarm_nothing_changes(world: Path, tmp_path: Path) -> None:
    quiet = replace(guarded(world, tmp_path / "quiet"), epochs=4)  # 20 steps: all warm-up
    plain = run_distill(replace(quiet, out=tmp_path / "plain", guard=GuardSettings()))
    result = run_distill(quiet)
    assert not events(result.path) and rows(result.path) == rows(plain.path)


@pytest.mark.parametrize(
    ("every", "growth", "expected"),
    [(10, 1.0, [5, 15, 25, 35]), (1, 2.0, [5, 6, 8, 12]), (4, 0.5, [5, 9, 11, 12]), (1, 0.5, [5, 6, 7, 8])],
)
def test_the_schedule(tmp_path: Path, every: int, growth: float, expected: list[int]) -> None:
    run = RunDirectory(DistillSettings(out=tmp_path), "distill")
    guard = Guard(GuardSettings(on=True, every=every, growth=growth, budget=4), run, 16)
    assert guard.schedule() == []
    guard.load_state_dict(document.dump(GuardState(alarm=RaisedAlarm(step=79, onset=48, kept=48))))
    assert guard.schedule() == expected


@hypothesis.given(every=st.integers(1, 4), growth=st.floats(0.1, 2), budget=st.integers(1, 7))
@hypothesis.settings(deadline=None)
def test_a_run_that_stops_has_read_every_new_response(every: int, growth: float, budget: int) -> None:
    chosen = GuardSettings(on=True, every=every, growth=growth, budget=budget)
    guard = Guard(chosen, RunDirectory(DistillSettings(), "distill"), 16)
    guard.load_state_dict(document.dump(GuardState(alarm=RaisedAlarm(step=79, onset=48, kept=48))))
    prompts = [replace(s, sample=-1) for s in sequences(20)]
    growing = Growing(
        Offline(prompts), lambda number, _: [replace(s, sample=number) for s in prompts], guard.schedule(), seed=1
    )
    read: list[set[int]] = [set() for _ in prompts]
    epoch = int(guard.first_epoch)
    while not guard.should_stop(epoch * 16):
        for numbers, s in zip(read, growing.sequences(np.arange(20), epoch), strict=True):
            numbers.add(s.sample)
        epoch += 1
    assert all(numbers >= set(range(budget)) for numbers in read)


def test_a_growing_set_uses_what_is_new_whole_and_then_all_evenly() -> None:
    given = [replace(s, sample=100) for s in sequences(400)]

    def write(number: int, epoch: int) -> list[TokenSequence]:
        return [replace(s, sample=number) for s in given]

    growing = Growing(Offline(given), write, [2, 4], seed=1)
    positions = np.arange(400)[::-1]

    def counts(epoch: int) -> dict[int, int]:
        found = growing.sequences(positions, epoch)
        assert [s.example for s in found] == positions.tolist()
        return {int(k): int(n) for k, n in zip(*np.unique([s.sample for s in found], return_counts=True), strict=True)}

    assert counts(1) == {100: 400} and counts(2) == {0: 400}
    assert set(counts(3)) == {0, 100} and min(counts(3).values()) > 150
    assert counts(4) == {1: 400}
    later = counts(5)
    assert set(later) == {0, 1, 100} and min(later.values()) > 90
    part = growing.sequences(np.array([7, 3]), 5)
    whole = growing.sequences(positions, 5)
    assert [s.sample for s in part] == [whole[399 - 7].sample, whole[399 - 3].sample]


def test_a_guard_that_could_not_act_is_refused() -> None:
    base = DistillSettings(student="s", teacher="t", cache="c", eval_data="b", guard=GuardSettings(on=True))
    check_combination(base)
    data = replace(base.data, path="d")
    online = replace(base, cache="", data=data, source=SourceSettings(kind="online-teacher"))
    for settings, message in [
        (online, "a guard watches offline runs"),
        (replace(base, eval_data=""), "needs a live teacher for both"),
        (replace(base, teacher="", oracle="o"), "needs a live teacher for both"),
        (replace(base, target=TargetSettings(kind="top-k")), "target applies only to a live teacher"),
    ]:
        with pytest.raises(UsageError, match=message):
            check_combination(settings)


class Asked:
    """Given responses that note how many are read together."""

    lengths, generated_tokens, teacher_tokens, keeps_responses = None, 0, 0, False

    def __init__(self, count: int) -> None:
        self._sequences, self.most = sequences(count), 0

    def __len__(self) -> int:
        return len(self._sequences)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        self.most = max(self.most, len(positions))
        return [self._sequences[i] for i in positions]


def test_a_set_is_read_sampled_and_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more prompts are in memory together than are sampled together, and a set is the same when it is read again."""
    monkeypatch.setattr(guarded_data, "_WINDOW", 4)
    windows: list[int] = []

    def written(model: object, prompts: list[TokenSequence], *_: object, samples: np.ndarray, **__: object) -> object:
        windows.append(len(prompts))
        new = [s.with_response(np.arange(s.example % 5), int(n)) for s, n in zip(prompts, samples, strict=True)]
        return new, 0

    monkeypatch.setattr(guarded_data, "respond_accepted", written)
    run = RunDirectory(DistillSettings(out=tmp_path), "distill")
    request = GenerationRequest(sampling=SamplingSettings(), max_new_tokens=4, seed=0)
    found = []
    for _ in range(2):
        given = Asked(10)
        guard = Guard(GuardSettings(on=True, budget=1), run, 16)
        monkeypatch.setattr(guard, "count_set", lambda *_: True)
        guard.load_state_dict(document.dump(GuardState(alarm=RaisedAlarm(step=16, onset=8, kept=8))))
        data = guarded_data.GuardedData(given, guard, None, request, None)  # type: ignore[arg-type]  # no model is asked
        new = data.sequences(np.arange(10), 1)
        found.append([(s.prompt_id, s.sample, s.response_ids.tolist()) for s in new])
        assert given.most <= 4 and [s.response_ids.tolist() for s in new] == [list(range(i % 5)) for i in range(10)]
    assert windows == [4, 4, 2] and found[0] == found[1]  # the second time from the file


def test_a_set_of_new_responses_has_a_sample_number_for_each_response_to_a_prompt() -> None:
    given = [replace(s, sample=sample) for s in sequences(3) for sample in (0, 1)]
    assert _samples(given, 0).tolist() == [0, 1, 0, 1, 0, 1]
    assert _samples(given, 4).tolist() == [8, 9, 8, 9, 8, 9]
    assert _samples(sequences(3), 4).tolist() == [4, 4, 4]
