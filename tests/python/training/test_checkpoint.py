"""Trap 27: a checkpoint is whole or it does not exist."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from thack.errors import DataError
from thack.schema.run import Costs, TrainerState
from thack.training.checkpoint import (
    Snapshot,
    check_checkpoint,
    checkpoints,
    latest_checkpoint,
    optimizer_tensors,
    prune_checkpoints,
    read_snapshot,
    restore_optimizer,
    save_checkpoint,
    step_of,
)
from thack.training.optimizer import build_optimizer

from .small import OPTIMIZER, model, sequences, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "a"
    train(path, total_steps=3)
    return path / "checkpoints"


def test_every_file_is_listed_and_none_is_a_pickle(run: Path) -> None:
    newest = checkpoints(run)[-1]
    listed = json.loads((newest / "COMMIT.json").read_text())["files"]
    assert set(listed) | {"COMMIT.json"} == {path.name for path in newest.iterdir()}
    assert {Path(name).suffix for name in listed} <= {".json", ".safetensors"}
    check_checkpoint(newest)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pitfall_27_torn_truncated_and_flipped_never_load(run: Path, data: st.DataObject) -> None:
    newest = checkpoints(run)[-1]
    path = data.draw(st.sampled_from(sorted(newest.iterdir())))
    content = path.read_bytes()
    damage = data.draw(st.sampled_from(["missing", "truncated", "flipped", "longer"]))
    try:
        if damage == "missing":
            path.unlink()
        elif damage == "truncated":
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        elif damage == "longer":
            path.write_bytes(content + b"x")
        else:
            place = data.draw(st.integers(0, len(content) - 1))
            bit = 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        found, skipped = latest_checkpoint(run)
        assert found is not None
        if step_of(found) == 3:  # white space of COMMIT.json
            assert path.name == "COMMIT.json" and json.loads(path.read_bytes()) == json.loads(content)
        else:
            assert step_of(found) == 2
            assert skipped and skipped[0].startswith("step_000003: ")
    finally:
        path.write_bytes(content)


def test_unfinished_directories_are_not_checkpoints(run: Path) -> None:
    (run / ".step_000009.1.tmp").mkdir(exist_ok=True)
    (run / "step_000010").mkdir(exist_ok=True)
    found, skipped = latest_checkpoint(run)
    assert found is not None and step_of(found) == 3
    assert "step_000010" in skipped[0]
    (run / "step_000010").rmdir()


def test_pruning_keeps_at_least_two_and_the_protected(tmp_path: Path) -> None:
    train(tmp_path / "a", total_steps=6)
    folder = tmp_path / "a" / "checkpoints"
    prune_checkpoints(folder, 6, 3, frozenset([1]))
    assert [step_of(p) for p in checkpoints(folder)] == [1, 4, 5, 6]
    prune_checkpoints(folder, 6, 0)
    assert [step_of(p) for p in checkpoints(folder)] == [5, 6]


def test_pitfall_27_damaged_checkpoints_of_later_steps_never_push_out_complete_ones(tmp_path: Path) -> None:
    """A run that had resumed before three damaged checkpoints removed each new one as the oldest."""
    folder = tmp_path / "a" / "checkpoints"
    train(tmp_path / "a", total_steps=6)
    for directory in checkpoints(folder)[3:]:
        (directory / "model.safetensors").write_bytes(b"torn")

    def fail(step: int) -> dict[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "a", total_steps=8, keep=2, evaluations=frozenset([6]), evaluate=fail)
    assert [step_of(p) for p in checkpoints(folder)] == [4, 5]
    found, skipped = latest_checkpoint(folder)
    assert (found, skipped) == (folder / "step_000005", [])


def test_optimizer_of_another_model_is_refused(run: Path) -> None:
    other = torch.nn.Linear(2, 2)
    with pytest.raises(DataError, match="another model's"):
        restore_optimizer(other, build_optimizer(other, OPTIMIZER), checkpoints(run)[-1])


class WithExperts(torch.nn.Module):
    """Two experts, each a module of its own, as in SwitchTransformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(2))

    def step(self, optimizer: torch.optim.Optimizer, experts: Sequence[int]) -> None:
        x = torch.ones(2, 3)
        for i in experts:
            x = self.experts[i](x)
        x.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def test_a_parameter_without_a_gradient_so_far_resumes_like_the_uninterrupted_run(tmp_path: Path) -> None:
    weights = []
    for interrupted in (False, True):
        net = WithExperts()
        optimizer = build_optimizer(net, OPTIMIZER)
        net.step(optimizer, [0])
        if interrupted:
            save_file(dict(optimizer_tensors(net, optimizer)), tmp_path / "optimizer.safetensors")
            optimizer = build_optimizer(net, OPTIMIZER)
            restore_optimizer(net, optimizer, tmp_path)
        net.step(optimizer, [0, 1])
        net.step(optimizer, [1])
        weights.append(torch.cat([p.detach().reshape(-1) for p in net.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("change", ["slot", "shape", "name"])
def test_state_that_does_not_fit_is_refused(tmp_path: Path, change: str) -> None:
    net = WithExperts()
    optimizer = build_optimizer(net, OPTIMIZER)
    net.step(optimizer, [0, 1])
    tensors = dict(optimizer_tensors(net, optimizer))
    if change == "slot":
        del tensors["exp_avg_sq.experts.1.bias"]
    elif change == "shape":
        tensors["exp_avg.experts.1.bias"] = torch.zeros(4)
    else:
        tensors["exp_avg.experts.2.bias"] = torch.zeros(3)
    save_file(tensors, tmp_path / "optimizer.safetensors")
    with pytest.raises(DataError, match="another model's"):
        restore_optimizer(net, build_optimizer(net, OPTIMIZER), tmp_path)


def test_responses_of_an_open_window_come_back_as_they_were(tmp_path: Path) -> None:
    student = model()
    optimizer = build_optimizer(student, OPTIMIZER)
    pairs = [replace(s, position=number) for number, s in zip((7, None, 3, 0, 5), sequences(5), strict=True)]
    state = TrainerState(step=4, costs=Costs(generated_tokens=7, seconds=1.5), hooks={"guard": {"alarm": None}})
    snapshot = Snapshot(state=state, responses=pairs)
    tensors = dict(optimizer_tensors(student, optimizer))
    back = read_snapshot(save_checkpoint(tmp_path, student, tensors, snapshot))
    assert back.step == 4 and back.state == state
    assert back.responses is not None
    for ours, theirs in zip(pairs, back.responses, strict=True):
        assert (ours.example, ours.position, ours.prompt_id) == (theirs.example, theirs.position, theirs.prompt_id)
        assert ours.sample == theirs.sample
        assert np.array_equal(ours.prompt_ids, theirs.prompt_ids)
        assert np.array_equal(ours.response_ids, theirs.response_ids)
        assert theirs.response_ids.dtype == np.int32
