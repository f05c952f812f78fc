"""Sparse records through the Python face, and directories that cannot be written."""

from __future__ import annotations

import argparse
import errno
import inspect
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from thack.cache.capture import preparation
from thack.cache.capture.job import capture
from thack.cache.format.layout import RecordLayout
from thack.cache.format.records import decode, encode
from thack.config import CacheSettings
from thack.errors import CacheError, ModelError, ThackError
from thack.schema.targets import TargetSpec
from thack.targets.select import select
from thack.targets.types import SampledTarget, TopKTarget

from .conftest import FakeTeacher, make_sequences

V, K, N = 300, 8, 20
KEYS = torch.zeros(N, 4, dtype=torch.int64)


def top_k_target(temperatures: tuple[float, ...] = ()) -> TopKTarget:
    generator = torch.Generator().manual_seed(0)
    log_p = torch.log_softmax(3 * torch.randn(N, V, generator=generator), 1)
    ids = log_p.topk(K, 1).indices.sort(1).values
    rest = log_p.scatter(1, ids, float("-inf"))
    return TopKTarget(
        ids_NK=ids.int(),
        log_probs_NK=log_p.gather(1, ids),
        log_tail_N=rest.logsumexp(1),
        vocab_size=V,
        log_tail_at={t: (rest / t).logsumexp(1) for t in temperatures},
    )


def test_top_k_targets_come_back_within_their_steps() -> None:
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=K, temperatures=(0.5, 2.0)), vocab_size=V)
    target = top_k_target(layout.spec.temperatures)
    data = encode(target, layout, seed=0, keys_N4=KEYS)
    assert len(data) == N * layout.stride
    back = decode(data, layout)
    assert isinstance(back, TopKTarget)
    assert torch.equal(back.ids_NK, target.ids_NK)
    torch.testing.assert_close(back.log_probs_NK, target.log_probs_NK, atol=0.05, rtol=0)
    torch.testing.assert_close(back.log_tail_N, target.log_tail_N, atol=2e-3, rtol=1e-3)
    for t in layout.spec.temperatures:
        torch.testing.assert_close(back.log_tail_at[t], target.log_tail_at[t], atol=4e-3, rtol=1e-3)


def test_sampled_targets_come_back_unbiased() -> None:
    """Pitfall 8: the mean of many decoded weights is the weight, for heads and drawn ids alike."""
    layout = RecordLayout(spec=TargetSpec(kind="sampled", k=4), vocab_size=V)
    rows = 4000
    weights = torch.tensor([0.61, 0.1037, 0.1, 0.1])
    target = SampledTarget(
        ids_NK=torch.tensor([3, 40, 41, 299]).int().repeat(rows, 1),
        weights_NK=weights.repeat(rows, 1),
        counts_N=torch.full((rows,), 4).int(),
        tau_N=torch.full((rows,), 0.1),
        entropy_N=torch.full((rows,), 1.2345),
        vocab_size=V,
    )
    keys = torch.zeros(rows, 4, dtype=torch.int64)
    keys[:, 3] = torch.arange(rows)
    back = decode(encode(target, layout, seed=5, keys_N4=keys), layout)
    assert isinstance(back, SampledTarget)
    assert torch.equal(back.ids_NK, target.ids_NK) and torch.equal(back.counts_N, target.counts_N)
    found = torch.cat([back.weights_NK, back.entropy_N[:, None]], 1).double()
    expected = torch.cat([weights, torch.tensor([1.2345])]).double()
    error = found.std(0) / rows**0.5
    assert ((found.mean(0) - expected).abs() <= 4 * error + 1e-7).all()


@pytest.mark.parametrize("place", [(0, 0), (N - 1, K - 1), (N // 2, 3)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.5])
def test_numbers_that_mean_nothing_are_refused(place: tuple[int, int], value: float) -> None:
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=K), vocab_size=V)
    target = top_k_target()
    target.log_probs_NK[place] = value
    with pytest.raises(ModelError, match=f"row {place[0]} "):
        encode(target, layout, seed=0, keys_N4=KEYS)


@pytest.mark.parametrize("row", [0, N // 2, N - 1])
@pytest.mark.parametrize("place", [0, K // 2, K - 1])
def test_ids_out_of_order_or_range_are_refused(row: int, place: int) -> None:
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=K), vocab_size=V)
    for wrong in (V, -1, int(top_k_target().ids_NK[row, (place + 1) % K])):
        target = top_k_target()
        target.ids_NK[row, place] = wrong
        with pytest.raises(ModelError, match=f"row {row} "):
            encode(target, layout, seed=0, keys_N4=KEYS)


def test_records_of_any_bytes_are_errors_or_targets() -> None:
    rng = np.random.default_rng(0)
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=K), vocab_size=V)
    for _ in range(300):
        data = bytearray(rng.integers(0, 256, layout.stride, dtype=np.uint8).tobytes())
        try:
            found = decode(data, layout)
        except CacheError:
            continue
        assert isinstance(found, TopKTarget)
        assert (found.ids_NK[:, 1:] > found.ids_NK[:, :-1]).all() and found.ids_NK.max() < V


def test_a_directory_that_cannot_be_written_fails_before_the_teacher_loads(
    settings: CacheSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def load(_: CacheSettings) -> FakeTeacher:
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr(preparation, "load_teacher", load)
    (Path(settings.out) / "shards").mkdir(parents=True)
    (Path(settings.out) / "thack.json").write_text('{"kind": "cache"}')
    monkeypatch.setattr(os, "fsync", full)
    changed = CacheSettings(out=settings.out, kind="dense", teacher="somewhere")
    with pytest.raises(ThackError, match="no space left"):
        capture(changed, sequences=make_sequences(3))
    assert list((Path(settings.out) / "shards").iterdir()) == []


def row_of_letters() -> torch.Tensor:
    """Log-probabilities of what follows a space in Python's own argparse, by counts of letters with a little of every
    other code point below V: a real row with a head and a long tail."""
    counts = np.full(V, 0.02)
    for here, there in itertools.pairwise(inspect.getsource(argparse)):
        if here == " " and ord(there) < V:
            counts[ord(there)] += 1
    return torch.from_numpy(np.log(counts / counts.sum())).float()


@pytest.mark.parametrize("k", [4, 16])
def test_drawn_written_and_read_rows_are_unbiased_and_twice_as_close_as_multinomial(k: int) -> None:
    """Pitfall 8, end to end: over draws *after decoding*, each id's mean is p within 5 standard errors, and so is the
    entropy's; no row keeps fewer than K ids; 16 ids have at most half the squared error of as many multinomial draws.
    """
    rows, layout = 6000, RecordLayout(spec=TargetSpec(kind="sampled", k=k), vocab_size=V)
    row = row_of_letters()
    keys = torch.zeros(rows, 4, dtype=torch.int64)
    keys[:, 1] = torch.arange(rows)
    target = select(row.expand(rows, V), layout.spec, width=V, seed=3, keys_N4=keys)
    back = decode(encode(target, layout, seed=3, keys_N4=keys), layout)
    assert isinstance(back, SampledTarget)
    assert (back.counts_N == k).all()
    p = torch.softmax(row.double(), 0)
    dense = torch.zeros(rows, V, dtype=torch.float64)
    dense.scatter_add_(1, back.ids_NK.long(), back.weights_NK.double())
    tau = float(back.tau_N.double().max())
    # An id that is drawn with probability p/τ has variance p(τ − p); heads have their rounding, seen in the draws.
    error = (torch.maximum(dense.var(0), p * (tau - p)) / rows).sqrt()
    assert ((dense.mean(0) - p).abs() <= 5 * error + 1e-7).all()
    entropy = back.entropy_N.double()
    assert abs(entropy.mean() - torch.special.entr(p).sum()) <= 5 * entropy.std() / rows**0.5 + 1e-5
    ours = ((dense - p) ** 2).sum(1).mean()
    multinomial = (1 - (p**2).sum()) / k
    assert ours <= multinomial / (2 if k == 16 else 1)
