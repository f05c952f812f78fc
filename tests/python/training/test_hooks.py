"""A trainer asks its hooks: when to evaluate, save and stop, which checkpoints to keep, and which model to publish."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from thack.errors import Preempted
from thack.models.protocol import LanguageModel
from thack.schema.metrics import PROXY
from thack.training.checkpoint import checkpoints, read_snapshot, step_of
from thack.training.hooks import BestProxy, Hook
from thack.training.validation import NLL, Validation, validation_nll

from .small import make_trainer, model, rows, sequences, train
from .test_trainer import signal_at


class Counting(Hook):
    """Evaluates at every third step, counts that, and keeps the second evaluation's checkpoint."""

    name = "counting"

    def __init__(self, stop_at: int = 1000) -> None:
        self.stop_at, self.evaluated = stop_at, 0
        self.seen: list[Mapping[str, float]] = []

    def wants_evaluation(self, step: int) -> bool:
        return step % 3 == 0

    def evaluate(self, step: int, student: LanguageModel) -> dict[str, float]:
        assert not student.training, "measured in eval mode"
        self.evaluated += 1
        return {"count": float(self.evaluated)}

    def after_evaluation(self, step: int, columns: Mapping[str, float]) -> None:
        self.seen.append(dict(columns))

    def should_stop(self, step: int) -> bool:
        return step >= self.stop_at

    def protected_steps(self) -> frozenset[int]:
        return frozenset({3})

    def best_step(self) -> int | None:
        return 3

    def state_dict(self) -> Mapping[str, object]:
        return {"evaluated": self.evaluated}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.evaluated = int(str(state["evaluated"]))


class Other(Hook):
    """Adds columns, one at the last evaluation alone, and wants an evaluation, but no checkpoint, at step 1."""

    def wants_evaluation(self, step: int) -> bool:
        return step == 1

    def wants_checkpoint(self, step: int) -> bool:
        return False

    def evaluate(self, step: int, student: LanguageModel) -> dict[str, float]:
        return {"other": 1.0}

    def evaluate_last(self, step: int, student: LanguageModel) -> dict[str, float]:
        return {"last": 1.0}


def test_hooks_decide_alone_and_together(tmp_path: Path) -> None:
    trainer, start = make_trainer(tmp_path / "a", every=0, keep=2, total_steps=12)
    counting = Counting(stop_at=10)
    trainer.hooks = [counting, Other()]
    trainer.train(start)
    trainer.publish()
    trainer.run.close()
    evaluations = [row for row in rows(tmp_path / "a") if row["event"] == "evaluation"]
    assert [row["step"] for row in evaluations] == [0, 1, 3, 6, 9]
    assert [row["count"] for row in evaluations] == [1, 2, 3, 4, 5] and all(row["other"] == 1 for row in evaluations)
    assert counting.seen[-1] == {"count": 5.0, "other": 1.0}, "a hook sees what the others measured"
    assert trainer.step == 10, "ended by a hook"
    folder = tmp_path / "a" / "checkpoints"
    assert [step_of(path) for path in checkpoints(folder)] == [3, 9, 10], "3 is protected; 1 wanted no checkpoint"
    weights = "model.safetensors"
    assert (tmp_path / "a" / "model" / weights).read_bytes() == (folder / "step_000003" / weights).read_bytes()


@pytest.mark.parametrize("stop_at", [9, 99])
def test_the_last_evaluation_is_known_also_where_a_hook_ends_the_run(tmp_path: Path, stop_at: int) -> None:
    trainer, start = make_trainer(tmp_path / "a", every=0, total_steps=12)
    trainer.hooks = [Other(), Counting(stop_at=stop_at)]
    trainer.train(start)
    trainer.run.close()
    evaluations = [row for row in rows(tmp_path / "a") if row["event"] == "evaluation"]
    assert [row["step"] for row in evaluations if "last" in row] == [min(stop_at, 12)] == [evaluations[-1]["step"]]


def test_the_state_of_a_hook_is_in_every_checkpoint_and_restored(tmp_path: Path) -> None:
    whole, start = make_trainer(tmp_path / "whole", every=0)
    whole.hooks = [Counting()]
    whole.train(start)
    trainer, start = make_trainer(tmp_path / "cut", every=0)
    trainer.hooks = [Counting(), Other()]
    signal_at(trainer, 4, signal.SIGTERM)
    with pytest.raises(Preempted):
        trainer.train(start)
    trainer.run.close()
    saved = read_snapshot(checkpoints(tmp_path / "cut" / "checkpoints")[-1]).state
    assert (saved.step, saved.hooks) == (4, {"counting": {"evaluated": 3}}), "a hook without a name has no state"
    trainer, start = make_trainer(tmp_path / "cut", every=0)
    again = Counting()
    trainer.hooks = [again]
    trainer.train(start)
    assert again.evaluated == 4  # steps 0, 1 (asked for by the other), 3 before; 6 after
    for one in (whole, trainer):
        one.run.close()


def test_a_hook_that_overrides_nothing_changes_nothing(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    trainer, start = make_trainer(tmp_path / "hooked")
    trainer.hooks = [Hook()]
    trainer.train(start)
    trainer.run.close()
    assert rows(tmp_path / "hooked") == rows(tmp_path / "plain") and plain.step == trainer.step
    state = read_snapshot(checkpoints(tmp_path / "hooked" / "checkpoints")[-1]).state
    assert state.hooks == {}


def test_validation_remembers_the_best_evaluation_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.5, 3.0, 2.0, 2.5, 2.0])
    monkeypatch.setattr("thack.training.validation.validation_nll", lambda *_, **__: next(values))
    student, hook = model(), Validation([0, 4, 8], sequences(2))
    assert hook.best_step() is None and hook.protected_steps() == frozenset() and hook.state_dict() == {}
    assert hook.evaluate(0, student) == {NLL: 0.5}
    assert hook.best_step() is None, "the model that was given is not a result"
    bests = []
    for step in (4, 8, 12, 16):
        hook.evaluate(step, student)
        bests.append(hook.best_step())
    assert bests == [4, 8, 8, 8] and hook.protected_steps() == frozenset({8})
    other = Validation([0], [])
    other.load_state_dict(hook.state_dict())
    assert other.best_step() == 8
    assert other.evaluate(20, student) == {}, "nothing is held out"
    assert hook.wants_evaluation(4) and hook.wants_checkpoint(4) and not hook.wants_evaluation(5)


def test_validation_loss_is_a_mean_over_tokens_for_any_batch_size() -> None:
    student, pairs = model(), sequences(9)
    alone = sum(validation_nll(student, [s]) * len(s.response_ids) for s in pairs)
    tokens = sum(len(s.response_ids) for s in pairs)
    for size in (1, 4, 100):
        assert validation_nll(student, pairs, batch_size=size) == pytest.approx(alone / tokens, rel=1e-6)
    student.train()
    validation_nll(student, pairs)
    assert student.training


def test_the_checkpoint_with_the_lowest_proxy_is_protected_and_remembered() -> None:
    hook = BestProxy([0, 2, 4, 8])
    for step, nats in ((0, 0.1), (2, 3.0), (3, 0.5), (4, 2.0), (8, 2.5)):
        hook.after_evaluation(step, {str(PROXY): nats})
    assert hook.kept_step() == 4, "step 0 is the student as it was, and at step 3 nothing is saved"
    again = BestProxy([])
    again.load_state_dict(hook.state_dict())
    assert again.protected_steps() == {4}
    empty = BestProxy([2])
    empty.after_evaluation(2, {})
    again.load_state_dict(empty.state_dict())
    assert empty.kept_step() is None and again.kept_step() is None and again.protected_steps() == frozenset()
