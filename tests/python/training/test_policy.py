"""On-policy distillation by realised log-probabilities: newly sampled, and from a cache of the student's own start."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thack.cache.capture.job import capture
from thack.checks import check_combination
from thack.checks.inputs import check_caches
from thack.config import (
    CacheSettings,
    DistillSettings,
    GenerateSettings,
    GuardSettings,
    LossSettings,
    OptimizerSettings,
    PolicySettings,
    SamplingSettings,
    SftSettings,
    SourceSettings,
    TargetSettings,
)
from thack.data.sequence import TokenSequence
from thack.errors import MismatchError, Preempted, UndefinedLoss, UsageError
from thack.generation.run import run_generate
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.models.precision import FLOAT32
from thack.runtime.progress import SILENT
from thack.targets.realised import scored_log_probs
from thack.training import run_distill, run_sft

from .small import rows, sequences
from .world import DATA, build_world, distill_settings, records, signal_at

STALE = ("policy/effective_samples", "policy/clipped_share", "policy/floored_share")


def policy(**changes: Any) -> LossSettings:
    return LossSettings(weight=0.0, policy=PolicySettings(weight=1.0, **changes))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, and responses of its student and of its teacher, each with a cache of the teacher's."""
    root = build_world(tmp_path_factory.mktemp("policy"))
    prompts = replace(DATA, path=str(root / "prompts.jsonl"))
    for name, model in (("own", "student"), ("others", "teacher")):
        run_generate(GenerateSettings(out=root / name, model=str(root / model), data=prompts, device="cpu"))
        own = replace(DATA, path=str(root / name))
        settings = CacheSettings(
            out=root / f"{name}-cache", teacher=str(root / "teacher"), data=own, top_k=4, device="cpu"
        )
        capture(settings, SILENT)
    return root


def settings(world: Path, out: Path, loss: LossSettings, **changes: Any) -> DistillSettings:
    given = distill_settings(world, out, changes.pop("kind", "online-student"), loss=loss)
    return replace(given, **{"oracle": "", "eval_data": "", "teacher": given.teacher} | changes)


def offline(world: Path, out: Path, loss: LossSettings, **changes: Any) -> DistillSettings:
    given = {"kind": "offline", "cache": str(world / "own-cache"), "teacher": ""}
    return settings(world, out, loss, **given | changes)


def trained(settings: DistillSettings) -> list[dict[str, Any]]:
    return [row for row in rows(run_distill(settings).path) if row["event"] == "train"]


def test_on_policy_the_first_step_of_a_window_is_fresh_and_the_others_stale(world: Path, tmp_path: Path) -> None:
    logged = trained(settings(world, tmp_path / "run", policy()))
    fresh = [row[STALE[0]] for row in logged]
    assert all(set(STALE) <= row.keys() for row in logged)
    windows = [0, 3, 5, 8]  # of three steps, ended by each epoch
    assert all(fresh[i] == pytest.approx(1, abs=1e-6) for i in windows)
    assert all(fresh[i] < 0.99999 for i in range(10) if i not in windows)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_it_brings_the_student_nearer_to_the_teacher(world: Path, tmp_path: Path, estimator: str) -> None:
    """By the whole distributions of the tokens behind the prompts, of which training sees one id each."""
    optimizer = OptimizerSettings(learning_rate=5e-3, warmup_steps=2)
    source = SourceSettings(kind="online-student", refresh_steps=1)
    changes = {"epochs": 30, "batch_size": 10, "optimizer": optimizer, "source": source}
    result = run_distill(settings(world, tmp_path / "run", policy(estimator=estimator), **changes))
    tokenizer = load_model(world / "teacher").tokenizer
    first = [
        TokenSequence(
            example=i, prompt_id=str(i), prompt_ids=tokenizer.encode(r.prompt), response_ids=np.ones(1, np.int32)
        )
        for i, r in enumerate(records(10))
    ]
    batch = Batch.of(first)
    with torch.no_grad():
        log_p = load_model(world / "teacher")(batch).log_softmax(1)
        students = [load_model(world / "student"), load_model(result.model)]
        log_qs = [student(batch).log_softmax(1) for student in students]
    if estimator == "k1":
        before, after = (float((log_q.exp() * (log_q - log_p)).sum(1).mean()) for log_q in log_qs)
    else:
        before, after = (float((log_p.exp() * (log_p - log_q)).sum(1).mean()) for log_q in log_qs)
    assert after < 0.9 * before, (before, after)


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_pitfall_28_stopped_within_a_window_it_resumes_to_the_bit(world: Path, tmp_path: Path, discount: float) -> None:
    loss = policy(discount=discount)
    whole = run_distill(settings(world, tmp_path / "whole", loss))
    cut = settings(world, tmp_path / "cut", loss)
    for step in (2, 7):
        with pytest.MonkeyPatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(Preempted):
                run_distill(cut)
    assert rows(run_distill(cut).path) == rows(whole.path)
    assert (cut.out / "model" / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()


def test_from_a_cache_of_its_own_start_it_resumes_to_the_bit(world: Path, tmp_path: Path) -> None:
    whole = run_distill(offline(world, tmp_path / "whole", policy(discount=0.5)))
    facts = json.loads((whole.path / "manifest.json").read_text())["facts"]
    assert facts["models"]["start"] == facts["models"]["student"] == load_model(world / "student").fingerprint()
    fresh = [row[STALE[0]] for row in rows(whole.path) if row["event"] == "train"]
    assert fresh[0] == pytest.approx(1, abs=1e-6) and fresh[-1] < fresh[1] < 1
    cut = offline(world, tmp_path / "cut", policy(discount=0.5))
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 4)
        with pytest.raises(Preempted):
            run_distill(cut)
    assert rows(run_distill(cut).path) == rows(whole.path)


def test_a_live_teacher_of_any_kind_and_a_cache_give_the_same_first_step(world: Path, tmp_path: Path) -> None:
    """To the cache's 2.5e-4 nats. The kind of target does not matter: only the realised token counts."""
    loss, own = policy(importance="none"), replace(DATA, path=str(world / "own"))
    cached = trained(offline(world, tmp_path / "cache", loss, steps=1, batch_size=10))[0]["loss"]
    for number, target in enumerate(
        (TargetSettings(), TargetSettings(kind="top-k", k=2), TargetSettings(kind="sampled", k=2))
    ):
        changes = {"cache": "", "data": own, "target": target, "steps": 1, "batch_size": 10}
        live = settings(world, tmp_path / str(number), loss, kind="offline", **changes)
        assert trained(live)[0]["loss"] == pytest.approx(cached, abs=3e-4)
    assert cached > 0


def test_responses_of_another_model_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="written by another model than the student"):
        run_distill(offline(world, tmp_path / "a", policy(), cache=str(world / "others-cache")))
    others = replace(DATA, path=str(world / "others"))
    with pytest.raises(MismatchError, match="written by another model than the student"):
        run_distill(settings(world, tmp_path / "b", policy(), kind="offline", cache="", data=others))
    plain = replace(DATA, path=str(world / "prompts.jsonl"))
    with pytest.raises(UsageError, match="does not say who wrote its responses"):
        run_distill(settings(world, tmp_path / "c", policy(), kind="offline", cache="", data=plain))
    hot = GenerateSettings(
        out=tmp_path / "hot", model=str(world / "student"), data=plain, device="cpu",
        sampling=SamplingSettings(temperature=0.7),
    )  # fmt: skip
    run_generate(hot)
    with pytest.raises(UsageError, match="not sampled from the student's own distribution"):
        data = replace(DATA, path=str(hot.out))
        run_distill(settings(world, tmp_path / "d", policy(), kind="offline", cache="", data=data))


class Notes:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)

    def task(self, *given: Any) -> Any:
        return SILENT.task(*given)


def test_teacher_consistency_is_told_by_fingerprints(world: Path, tmp_path: Path) -> None:
    """A student that was fine-tuned on the teacher's responses, and one on those of another model."""
    found = []
    for name in ("others", "own"):
        sft = SftSettings(
            out=tmp_path / f"sft-{name}", model=str(world / "student"), data=replace(DATA, path=str(world / name)),
            epochs=1, batch_size=4, validation_fraction=0.0, device="cpu",
        )  # fmt: skip
        student = run_sft(sft)
        prompts = replace(DATA, path=str(world / "prompts.jsonl"))
        run_generate(GenerateSettings(out=tmp_path / name, model=str(student), data=prompts, device="cpu"))
        own, progress = replace(DATA, path=str(tmp_path / name)), Notes()
        given = settings(
            world, tmp_path / f"run-{name}", policy(), kind="offline", cache="", data=own, student=str(student), steps=1
        )
        run_distill(given, progress)
        found.append(next(line for line in progress.lines if "teacher consistency" in line))
    assert "the same teacher wrote" in found[0]
    assert "warning" in found[1] and "another model" in found[1]


REFUSED: dict[str, dict[str, Any]] = {
    "policy.weight = 0 leaves it out": {"loss": LossSettings(policy=PolicySettings(clip=0.2))},
    "source.kind = mixture": {"loss": policy(), "source": SourceSettings(kind="mixture")},
    "source.kind = online-teacher": {"loss": policy(), "source": SourceSettings(kind="online-teacher")},
    "source.sampling changes it": {
        "loss": policy(),
        "source": SourceSettings(kind="online-student", sampling=SamplingSettings(top_p=0.9)),
    },
    "guard.on does not go with": {
        "loss": policy(),
        "source": SourceSettings(),
        "guard": GuardSettings(on=True),
        "eval_data": "e",
    },
    "does not go with loss.policy.estimator = k3": {"loss": policy(estimator="k3", discount=0.5)},
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_what_does_not_combine_is_refused_before_anything_is_loaded(world: Path, tmp_path: Path, message: str) -> None:
    given = replace(settings(world, tmp_path / "run", policy()), **REFUSED[message])
    with pytest.raises((UsageError, UndefinedLoss)) as error:
        check_combination(given)
    assert message in str(error.value)


def test_a_cache_without_realised_log_probabilities_is_refused(world: Path, tmp_path: Path) -> None:
    place = tmp_path / "old"
    place.mkdir()
    plan = json.loads((world / "own-cache" / "plan.json").read_text())
    del plan["minor"]
    (place / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UndefinedLoss, match=r"format 1\.0"):
        check_caches([place], policy(), mixed=False)


def test_scores_do_not_depend_on_chunks(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, batch = load_model(world / "student"), Batch.of(sequences(8))
    with torch.no_grad():
        whole = scored_log_probs(student, batch, 264, FLOAT32)
        monkeypatch.setattr("thack.targets.realised._CHUNK_ELEMENTS", 264 * 3)
        parts = scored_log_probs(student, batch, 264, FLOAT32)
        expected = student(batch).log_softmax(1).gather(1, batch.labels_N[:, None])[:, 0]
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(whole, expected)
    assert math.isfinite(float(whole.sum()))
