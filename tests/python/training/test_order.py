"""Orders of any length: permutations for every n, alike in every place, and functions of their names alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.schema.run import Order
from thack.targets.keys import Stream, run_words
from thack.training.order import Permutation, order_of
from thack.training.plan import Plan

stats = pytest.importorskip("scipy.stats")


def permutation(count: int, seed: int = 0, epoch: int = 0, order: Order = "keyed") -> Permutation:
    return Permutation(count=count, seed=seed, stream=Stream.POSITIONS, epoch=epoch, order=order)


@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 9))
def test_it_is_a_bijection_for_every_n(count: int, seed: int, epoch: int) -> None:
    found = permutation(count, seed, epoch).at(np.arange(count))
    assert sorted(found.tolist()) == list(range(count))


@pytest.mark.parametrize("count", [99_999, 1 << 17, (1 << 17) + 1, 1_000_003])
def test_it_is_a_bijection_of_many(count: int) -> None:
    found = permutation(count, seed=5).at(np.arange(count))
    assert np.array_equal(np.bincount(found, minlength=count), np.ones(count))


def test_any_part_is_computed_alone_and_without_memory_of_its_length() -> None:
    order = permutation(10**12, seed=3)
    places = np.array([0, 7, 10**12 - 1, 10**6])
    found = order.at(places)
    assert [int(order.at(places[i : i + 1])[0]) for i in range(4)] == found.tolist()
    assert found.dtype == np.int64 and found.min() >= 0 and found.max() < 10**12


@pytest.mark.parametrize("count", [5, 64, 101])
def test_every_position_is_as_often_in_every_place(count: int) -> None:
    seeds = 1000
    seen = np.zeros((count, count))
    for seed in range(seeds):
        seen[np.arange(count), permutation(count, seed).at(np.arange(count))] += 1
    expected = seeds / count
    chi2 = float(((seen - expected) ** 2 / expected).sum())
    assert 1e-4 < stats.chi2.sf(chi2, (count - 1) ** 2) < 1 - 1e-4


def test_neighbours_and_epochs_are_independent() -> None:
    count = 100_003
    first, second = (permutation(count, 1, epoch).at(np.arange(count)) for epoch in (0, 1))
    for ours, theirs in ((first[:-1], first[1:]), (first, second), (np.arange(count), first)):
        assert abs(stats.spearmanr(ours, theirs).statistic) < 4 / np.sqrt(count)
    gaps = np.diff(first) % count  # of a random order they are uniform
    assert stats.kstest(gaps / count, "uniform").pvalue > 1e-4
    tenths = np.bincount(first[: count // 10] * 10 // count, minlength=10)  # the first tenth comes from everywhere
    assert stats.chisquare(tenths).pvalue > 1e-4


def test_small_runs_keep_the_order_of_before() -> None:
    assert order_of(1 << 16) == "sorted" and order_of((1 << 16) + 1) == "keyed"
    words = run_words(9, Stream.POSITIONS, 2, count=500)
    assert np.array_equal(permutation(500, 9, 2, "sorted").at(np.arange(500)), np.argsort(words, kind="stable"))


def sorted_epoch(plan: Plan, epoch: int) -> list[np.ndarray]:
    """The batches of an epoch, straight from their definition: all of them at once."""

    def shuffled(count: int, stream: Stream) -> np.ndarray:
        return np.argsort(run_words(plan.seed, stream, epoch, count=count), kind="stable")

    def cut(order: np.ndarray) -> list[np.ndarray]:
        return [order[start : start + plan.batch_size] for start in range(0, len(order), plan.batch_size)]

    order = shuffled(plan.num_sequences, Stream.POSITIONS)
    if plan.lengths is None:
        return cut(order)
    found: list[np.ndarray] = []
    for start in range(0, len(order), 16 * plan.batch_size):
        pool = order[start : start + 16 * plan.batch_size]
        body = pool[: len(pool) - len(pool) % plan.batch_size]
        found += cut(np.concatenate([body[np.argsort(plan.lengths[body], kind="stable")], pool[len(body) :]]))
    full = plan.num_sequences // plan.batch_size
    return [found[i] for i in shuffled(full, Stream.BATCHES)] + found[full:]


@settings(max_examples=10, deadline=None)
@given(num=st.integers(1, 400), size=st.integers(1, 9), width=st.integers(0, 40), by_length=st.booleans())
def test_batches_are_those_of_the_definition(num: int, size: int, width: int, by_length: bool) -> None:
    lengths = np.random.default_rng(num).integers(1, 50, num) if by_length else None
    plan = Plan(num_sequences=num, batch_size=size, seed=4, total_steps=10**6, window_steps=width, lengths=lengths)
    for epoch in (0, 3):
        expected, step = sorted_epoch(plan, epoch), epoch * plan.steps_per_epoch
        for number, batch in enumerate(expected):
            window = plan.window(step + number)
            assert np.array_equal(window.batch(window.positions, step + number), batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", [False, True])
def test_a_keyed_epoch_holds_every_position_once_and_saves_padding(lengths: bool) -> None:
    num, tokens = 70_001, np.random.default_rng(0).integers(5, 60, 70_001)
    plan = Plan(
        num_sequences=num, batch_size=32, seed=0, total_steps=9999, lengths=tokens if lengths else None, order="keyed"
    )
    batches = plan.batches(1, 0, plan.steps_per_epoch)
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(num))
    assert [len(batch) for batch in batches[:-1]] == [32] * (len(batches) - 1) and len(batches[-1]) == num % 32
    cells = sum(len(batch) * int(tokens[batch].max()) for batch in batches)
    assert (1 - tokens.sum() / cells < 0.1) == lengths


def test_a_step_of_a_billion_sequences_costs_its_batch() -> None:
    class Lengths:
        """Of 10⁹ sequences: only those that are asked for are there."""

        def __getitem__(self, positions: np.ndarray) -> np.ndarray:
            asked.append(len(positions))
            return positions % 97

    asked: list[int] = []
    plan = Plan(
        num_sequences=10**9,
        batch_size=32,
        seed=1,
        total_steps=10**8,
        window_steps=16,
        lengths=Lengths(),  # type: ignore[arg-type]
        order="keyed",
    )
    for step in (0, 12_345_678):
        window = plan.window(step)
        assert len(set(window.positions.tolist())) == 512 == len(window.positions)
    assert sum(asked) <= 2 * 16 * 512
