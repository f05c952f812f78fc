"""Parts of an evaluation are committed: a stop loses only the open one, and the result is the same to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from thack.config import EvaluateSettings, EvaluationSettings
from thack.errors import Preempted
from thack.evaluation import run_evaluate
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.kept import Part
from thack.models.protocol import LanguageModel
from thack.runtime.preemption import StopRequest
from thack.runtime.progress import Progress
from training.world import build_world


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluateSettings:
    world = build_world(tmp_path_factory.mktemp("world"))
    return EvaluateSettings(
        out=world / "whole.json",
        student=str(world / "student"),
        teacher=str(world / "teacher"),
        oracle=str(world / "oracle"),
        eval_data=str(world / "eval_set"),
        evaluation=EvaluationSettings(bootstrap=20),
        device="cpu",
    )


def measured(settings: EvaluateSettings, patch: pytest.MonkeyPatch, *, stop: bool) -> list[str]:
    """Which parts the models were run for; `stop`: a signal comes while the student's samples are measured."""
    ran: list[str] = []
    fixed, samples = Evaluator._on_fixed, Evaluator._on_samples

    def on_fixed(self: Evaluator, role: object, *given: object, **named: object) -> Part:
        ran.append(str(role))
        return fixed(self, role, *given, **named)  # type: ignore[arg-type]

    def on_samples(self: Evaluator, student: LanguageModel, progress: Progress) -> Part:
        if stop:
            raise StopRequest("SIGTERM")
        ran.append("samples")
        return samples(self, student, progress)

    with patch.context() as context:
        context.setattr(Evaluator, "_on_fixed", on_fixed)
        context.setattr(Evaluator, "_on_samples", on_samples)
        run_evaluate(settings)
    return ran


def test_a_stopped_evaluation_is_resumed_to_the_same_bytes(
    settings: EvaluateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = measured(settings, monkeypatch, stop=False)
    assert everything == ["oracle", "teacher", "samples", "oracle"]  # the last one is of the baseline
    cut = replace(settings, out=tmp_path / "cut.json")
    with pytest.raises(Preempted):
        measured(cut, monkeypatch, stop=True)
    assert [path.name for path in tmp_path.iterdir()] == [".cut.json.partial.jsonl"]
    with open(tmp_path / ".cut.json.partial.jsonl", "ab") as file:
        file.write(b'{"part": "torn')
    assert measured(cut, monkeypatch, stop=False) == ["samples", "oracle"]
    assert cut.out.read_bytes() == settings.out.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["cut.json"]


def test_parts_of_another_evaluation_do_not_count(
    settings: EvaluateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = replace(settings, out=tmp_path / "cut.json")
    with pytest.raises(Preempted):
        measured(cut, monkeypatch, stop=True)
    other = measured(replace(cut, seed=1), monkeypatch, stop=False)
    assert other == ["oracle", "teacher", "samples", "oracle"]
