"""The trainer: invariances of the gradient, resuming to the bit, and what happens when something goes wrong."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thack.errors import DivergedError, Interrupted, Preempted
from thack.losses.policy import ON_POLICY
from thack.models.batch import Batch
from thack.schema.metric_rows import GuardRow, MetricsRow
from thack.training.checkpoint import checkpoints, step_of
from thack.training.objective import Objective
from thack.training.trainer import Trainer

from .small import make_trainer, model, rows, sequences, train, weights


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_it_learns(tmp_path: Path) -> None:
    train(tmp_path / "a", total_steps=60, every=0)
    losses = [row["loss"] for row in rows(tmp_path / "a")]
    assert losses[-1] < 0.5 * losses[0]


def test_pitfall_28_resumed_from_every_step_of_two_epochs_equals_uninterrupted(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", dropout=0.2)  # 14 sequences in 4s: two epochs of 4 steps
    assert [step_of(p) for p in checkpoints(tmp_path / "whole" / "checkpoints")] == list(range(1, 9))
    for step in range(1, 9):
        path = tmp_path / f"from_{step}"
        shutil.copytree(tmp_path / "whole", path)
        for directory in checkpoints(path / "checkpoints"):
            if step_of(directory) > step:
                shutil.rmtree(directory)
        torch.manual_seed(step)  # whatever the global state was
        again = train(path)
        assert_same(weights(again), weights(whole))
        assert rows(path) == rows(tmp_path / "whole")


def test_pitfall_28_resumed_twice(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", dropout=0.2)
    for step in (3, 6):  # stopped, resumed, stopped again
        trainer, start = make_trainer(tmp_path / "cut", dropout=0.2, every=0)
        signal_at(trainer, step, signal.SIGTERM)
        with pytest.raises(Preempted, match="stopped by SIGTERM"):
            trainer.train(start)
        trainer.run.close()
    assert_same(weights(train(tmp_path / "cut")), weights(whole))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def signal_at(trainer: Trainer, step: int, number: signal.Signals) -> None:
    """Send this process a signal when `step` has been logged."""
    append = trainer.run.append

    def wrapped(row: MetricsRow | GuardRow) -> None:
        append(row)
        if row.step == step:
            os.kill(os.getpid(), number)

    trainer.run.append = wrapped  # type: ignore[method-assign]


@pytest.mark.parametrize("micro", [1, 3, 100])
def test_pitfall_9_micro_batches_do_not_change_the_gradient(tmp_path: Path, micro: int) -> None:
    whole, split = train(tmp_path / "a", every=0), train(tmp_path / "b", every=0, micro=micro)
    for row, other in zip(rows(tmp_path / "a"), rows(tmp_path / "b"), strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-4)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(split)[name], rtol=1e-3, atol=1e-4)


def test_pitfall_9_the_denominator_is_the_tokens_of_the_whole_step(tmp_path: Path) -> None:
    train(tmp_path / "a", total_steps=1, micro=1, every=0)
    student = model()
    trainer, _ = make_trainer(tmp_path / "b")
    trainer.run.close()
    batch = Batch.of([sequences()[i] for i in trainer.plan.batches(0, 0, 1)[0]])
    expected = torch.nn.functional.cross_entropy(student(batch), batch.labels_N)
    assert rows(tmp_path / "a")[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert rows(tmp_path / "a")[0]["tokens"] == len(batch.labels_N)


def test_row_order_does_not_change_the_loss() -> None:
    student, pairs = model(), sequences(6)
    order = [3, 0, 5, 1, 4, 2]
    one, other = (torch.nn.functional.cross_entropy(student(b), b.labels_N).item()
                  for b in (Batch.of(pairs), Batch.of([pairs[i] for i in order])))  # fmt: skip
    assert one == pytest.approx(other, rel=1e-6)


def test_a_diverged_step_stops_before_the_weights_are_touched(tmp_path: Path) -> None:
    trainer, start = make_trainer(tmp_path / "a", total_steps=8)
    calls = []

    class Poisoned(Objective):
        def __call__(
            self, output_NX: torch.Tensor, target: Any, labels_N: torch.Tensor, behaviour: Any = ON_POLICY
        ) -> torch.Tensor:
            calls.append(1)
            return super().__call__(output_NX, target, labels_N, behaviour) * (float("nan") if len(calls) == 4 else 1.0)

    trainer.objective = Poisoned(**{f.name: getattr(trainer.objective, f.name) for f in fields(trainer.objective)})
    with pytest.raises(DivergedError, match="diverged at step 4: loss nan") as error:
        trainer.train(start)
    trainer.run.close()
    assert "prompts of this step: p" in str(error.value)
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())
    again = train(tmp_path / "a")  # resumed from the last good checkpoint
    assert_same(weights(again), weights(train(tmp_path / "b")))


def test_ctrl_c_leaves_a_resumable_run(tmp_path: Path) -> None:
    trainer, start = make_trainer(tmp_path / "a", every=0)
    signal_at(trainer, 3, signal.SIGINT)
    with pytest.raises(Interrupted, match="run the same command again"):
        trainer.train(start)
    trainer.run.close()
    assert [step_of(p) for p in checkpoints(tmp_path / "a" / "checkpoints")] == [3]
    assert_same(weights(train(tmp_path / "a")), weights(train(tmp_path / "b")))


def test_a_save_file_asks_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    trainer, start = make_trainer(tmp_path / "a", every=0, total_steps=4)
    (tmp_path / "a" / "SAVE").touch()
    trainer.train(start)
    trainer.run.close()
    assert [step_of(p) for p in checkpoints(tmp_path / "a" / "checkpoints")] == [1, 4]


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    trainer, start = make_trainer(tmp_path / "a", dropout=0.3, every=0)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    trainer.train(start)
    trainer.run.close()
    assert torch.equal(before, torch.random.get_rng_state())


def test_evaluations_are_logged_once_each_and_start_at_zero(tmp_path: Path) -> None:
    seen: list[int] = []

    def measure(step: int) -> dict[str, float]:
        seen.append(step)
        return {"golden": float(step)}

    train(tmp_path / "a", every=0, evaluations=frozenset([0, 2, 8]), evaluate=measure)
    logged = [row for row in rows(tmp_path / "a") if row["event"] == "evaluation"]
    assert seen == [0, 2, 8] == [row["step"] for row in logged]
    assert np.array_equal([row["golden"] for row in logged], [0.0, 2.0, 8.0])
    assert [row["epoch"] for row in logged] == [0.0, 0.5, 2.0]
