"""A student with another tokenizer on responses that its teacher samples during the run: online, mixed, guarded."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.said import Said
from thack.config import EvaluationSettings, GuardSettings, SamplingSettings, SourceSettings
from thack.cross_tokenizer import Rewriter
from thack.data.sequence import TokenSequence
from thack.errors import DataError, Preempted, UsageError
from thack.generation.accepted import respond_accepted
from thack.generation.sampler import GenerationRequest, respond
from thack.generation.sources import Online
from thack.models.load import load_model
from thack.schema.metrics import PROXY
from thack.training import run_distill
from thack.training.checkpoint import checkpoints, read_snapshot

from .across_world import across, build_across, compared, evaluations, losses, other, theirs
from .small import rows
from .world import signal_at

REQUEST = GenerationRequest(sampling=SamplingSettings(), max_new_tokens=5, seed=5)
ALWAYS = 50.0  # as a slope ratio: below it whatever the student does


pytestmark = pytest.mark.usefixtures("compared_once")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_across(tmp_path_factory.mktemp("across"))


def online(world: Path, out: Path, kind: Any = "online-teacher", **changes: Any) -> Any:
    source = SourceSettings(kind=kind, refresh_steps=3)
    given: dict[str, Any] = {"source": source, "eval_data": str(world / "held_out.jsonl"), "steps": 6} | changes
    return across(world, out, "live", **given)


@pytest.mark.parametrize("kind", ["online-teacher", "mixture"])
def test_newly_sampled_responses_are_rewritten_and_resumed_to_the_bit(world: Path, tmp_path: Path, kind: str) -> None:
    whole = run_distill(online(world, tmp_path / "whole", kind))
    assert all(np.isfinite(losses(whole.path)))
    generated = [row["generated_tokens"] for row in rows(whole.path) if row["event"] == "train"]
    assert generated[-1] > generated[0] > 0
    settings = online(world, tmp_path / "cut", kind)
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 4)  # within a window
        with pytest.raises(Preempted):
            run_distill(settings)
    kept = read_snapshot(checkpoints(tmp_path / "cut" / "checkpoints")[-1]).responses
    assert kept is not None and all(max(s.response_ids) < theirs().size for s in kept)
    resumed = run_distill(settings)
    assert losses(resumed.path) == losses(whole.path)
    assert evaluations(resumed.path) == evaluations(whole.path)
    columns = evaluations(whole.path)[-1]
    assert {str(PROXY.per_byte), "train_kl/monitor", "train_kl/fresh"} <= columns.keys()


def test_the_student_trains_on_what_the_teacher_wrote(world: Path, tmp_path: Path) -> None:
    """The first loss of an online run is that of the same responses given in advance."""
    said = Said()
    first = losses(run_distill(online(world, tmp_path / "online", steps=1), said).path)[0]
    assert first > 0 and not any("mass left out" in line for line in said.lines)  # nothing is given to be measured
    mixed = Said()
    run_distill(online(world, tmp_path / "mixed", "mixture", steps=1), mixed)
    assert any("mass left out" in line for line in mixed.lines)


def test_text_of_the_student_is_refused(world: Path, tmp_path: Path) -> None:
    for source in (
        SourceSettings(kind="online-student"),
        SourceSettings(kind="mixture", online_by="student"),
    ):
        with pytest.raises(UsageError, match="on text that the student wrote nothing stands for the teacher"):
            run_distill(online(world, tmp_path / "run", source=source))


@pytest.mark.parametrize("policy", ["refresh", "raise-online"])
def test_guard_and_monitors_say_how_many_responses_were_sampled_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Any
) -> None:
    passes = cycle([False, True])
    monkeypatch.setattr(Rewriter, "accepts", lambda self, sequence: next(passes))
    guard = GuardSettings(on=True, threshold=ALWAYS, budget=1, every=1, policy=policy, then="continue")
    evaluation = EvaluationSettings(count=6, spacing="linear", bootstrap=50, student_samples=False)
    given: dict[str, Any] = {"eval_data": str(world / "held_out.jsonl"), "guard": guard, "evaluation": evaluation}
    said = Said()
    run_distill(across(world, tmp_path / "run", "live", epochs=11, **given), said)
    lines = [line for line in said.lines if "others are sampled in their place" in line]
    assert any(" fresh responses so far begin with a control token" in line for line in lines), "monitors"
    assert any(line.split()[2] == "responses" for line in lines), "guard"


@pytest.mark.parametrize("kind", ["live", "top-k"])
def test_a_guard_adds_responses_and_is_resumed_to_the_bit(world: Path, tmp_path: Path, kind: str) -> None:
    guard = GuardSettings(on=True, threshold=ALWAYS, budget=1, every=1, then="continue")
    evaluation = EvaluationSettings(count=6, spacing="linear", bootstrap=50, student_samples=False)
    given: dict[str, Any] = {
        "teacher": str(world / "teacher"),
        "eval_data": str(world / "held_out.jsonl"),
        "epochs": 11,
        "guard": guard,
        "evaluation": evaluation,
    }
    whole = run_distill(across(world, tmp_path / "whole", kind, **given)).path
    alarm, refresh = [row for row in rows(whole) if row["event"] == "guard"]
    assert alarm["action"] == "alarm" and alarm["detector"] == "fresh slope ratio"
    assert refresh["action"] == "refresh" and refresh["fresh_tokens"] > 0
    settings = across(world, tmp_path / "cut", kind, **given)
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, refresh["step"] + 1)
        with pytest.raises(Preempted):
            run_distill(settings)
    assert losses(run_distill(settings).path) == losses(whole)


def test_a_response_that_cannot_be_written_is_sampled_again(world: Path) -> None:
    teacher = load_model(world / "teacher")
    prompts = [replace(s, example=i) for i, s in enumerate([*given(), *given()])]
    samples = np.zeros(len(prompts), np.int64)
    first = respond(teacher, prompts, REQUEST, samples=samples)
    refused = {tuple(s.response_ids.tolist()) for s in first[::3]}
    found, again = respond_accepted(
        teacher,
        prompts,
        REQUEST,
        samples=samples,
        accepts=lambda s: tuple(s.response_ids.tolist()) not in refused,
    )
    assert again == len(first[::3])
    for n, (old, new) in enumerate(zip(first, found, strict=True)):
        assert (old.response_ids.tolist() == new.response_ids.tolist()) == (n % 3 != 0)
        assert new.sample == 0 and new.example == n
    with pytest.raises(DataError, match="none of 8 sampled responses can be written"):
        respond_accepted(teacher, prompts, REQUEST, samples=samples, accepts=lambda s: False)


def test_responses_that_are_sampled_again_are_counted(world: Path) -> None:
    said, passes = Said(), cycle([False, True])
    source = Online(load_model(world / "teacher"), given(), REQUEST, progress=said, accepts=lambda s: next(passes))
    for epoch in range(3):
        assert len(source.sequences(np.arange(4), epoch)) == 4
    assert source.sampled_again.count >= 6
    counts = [int(line.split()[1]) for line in said.lines if "sampled in their place" in line]
    assert counts == sorted(set(counts)) and 1 <= len(counts) < source.sampled_again.count


def test_which_responses_can_be_written() -> None:
    rewrite = Rewriter(theirs(), other(), compared(), prompts=lambda _: np.zeros(0, np.int32))
    text, pad, end = theirs().encode("give"), np.int32(theirs().pad_id), np.int32(theirs().eos_id)
    (sequence, *_) = given()
    expected = [(np.append(text, end), True), (np.array([end]), True), (np.append(text, pad), True), ([pad], False)]
    for ids, accepted in expected:
        assert rewrite.accepts(replace(sequence, response_ids=np.array(ids, np.int32))) == accepted


def given() -> list[TokenSequence]:
    return [
        TokenSequence(example=i, prompt_id=f"p{i}", prompt_ids=theirs().encode(f"def f{i}"), response_ids=np.zeros(0))
        for i in range(4)
    ]
