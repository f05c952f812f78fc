"""The plan: every sequence once per epoch, the same for any number of ranks and any point of resuming."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.errors import UsageError
from thack.training.plan import Plan, evaluation_steps, plan_steps, share


@settings(max_examples=60, deadline=None)
@given(
    num=st.integers(1, 90),
    size=st.integers(1, 20),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 5),
    bucketed=st.booleans(),
)
def test_an_epoch_holds_every_position_once(num: int, size: int, seed: int, epoch: int, bucketed: bool) -> None:
    lengths = np.arange(num) * 7 % 13 if bucketed else None
    plan = Plan(num_sequences=num, batch_size=size, seed=seed, total_steps=1, lengths=lengths)
    batches = whole_epoch(plan, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(num))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert len(batches) == plan.steps_per_epoch


@settings(max_examples=60, deadline=None)
@given(num=st.integers(1, 60), size=st.integers(1, 9), width=st.integers(0, 7), total=st.integers(1, 40))
def test_windows_tile_the_run(num: int, size: int, width: int, total: int) -> None:
    plan = Plan(num_sequences=num, batch_size=size, seed=3, total_steps=total, window_steps=width)
    step, walked = 0, []
    while step < total:
        window = plan.window(step)
        assert window.first_step == step
        walked += [window.batch(window.positions.tolist(), inside) for inside in range(step, window.end_step)]
        for inside in range(step, window.end_step):  # pitfall 28: any step finds its own window again
            assert plan.window(inside).first_step == step
        step = window.end_step
    assert step == total
    flat = [batch.tolist() for epoch in range(plan.num_epochs) for batch in whole_epoch(plan, epoch)][:total]
    assert walked == flat


def whole_epoch(plan: Plan, epoch: int) -> list[np.ndarray]:
    return plan.batches(epoch, 0, plan.steps_per_epoch)


def test_epochs_and_seeds_shuffle_differently_and_repeatably() -> None:
    def shuffled(seed: int, epoch: int) -> list[int]:
        plan = Plan(num_sequences=50, batch_size=4, seed=seed, total_steps=1)
        return [int(position) for batch in whole_epoch(plan, epoch) for position in batch]

    assert shuffled(1, 2) == shuffled(1, 2)
    assert shuffled(1, 2) != shuffled(1, 3)
    assert shuffled(1, 2) != shuffled(2, 2)


def test_bucketing_saves_padding_and_mixes_epochs() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 640)
    bucketed = Plan(num_sequences=640, batch_size=16, seed=0, total_steps=1, lengths=lengths)
    plain = Plan(num_sequences=640, batch_size=16, seed=0, total_steps=1)

    def padding(plan: Plan) -> float:
        cells = sum(len(batch) * int(lengths[batch].max()) for batch in whole_epoch(plan, 0))
        return 1 - int(lengths.sum()) / cells

    assert padding(bucketed) < 0.2 < 0.35 < padding(plain)
    assert {tuple(sorted(b)) for b in whole_epoch(bucketed, 0)} != {tuple(sorted(b)) for b in whole_epoch(bucketed, 1)}


@given(items=st.lists(st.integers(), max_size=20), world=st.integers(1, 5))
def test_ranks_share_a_step_without_overlap(items: list[int], world: int) -> None:
    parts = [list(share(items, rank, world)) for rank in range(world)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_evaluation_steps_are_even_in_log_step_and_end_at_the_end() -> None:
    assert evaluation_steps(960, 12, "log") == [0, 4, 7, 11, 18, 29, 48, 79, 131, 215, 354, 583, 960]
    assert evaluation_steps(100, 4, "linear") == [0, 25, 50, 75, 100]
    assert evaluation_steps(3, 12, "log") == [0, 1, 2, 3]
    assert evaluation_steps(10, 0, "log") == [0, 10]


def test_number_of_steps() -> None:
    assert plan_steps(100, 32, 3, 0) == 12
    assert plan_steps(100, 32, 1, 50) == 50
    with pytest.raises(UsageError, match="nothing to train on"):
        plan_steps(0, 32, 1, 0)
    with pytest.raises(UsageError, match="batch_size must be 1 or more, got 0"):
        plan_steps(1, 0, 1, 0)
    with pytest.raises(UsageError, match="at least one step"):
        plan_steps(1, 1, 0, 0)
