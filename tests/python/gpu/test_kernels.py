"""Row kernels on the device against the Rust kernels on the same logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from thack import kernels
from thack.errors import ModelError
from thack.kernels import ThresholdSample

from .host import HostCopies

N, V = 41, 3001
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def logits(dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Ordinary rows, and three that are special: ties, a few finite values, far from 0."""
    z_NV = torch.randn(N, V, generator=torch.Generator().manual_seed(seed)) * 4
    z_NV[0] = z_NV[0].round()
    z_NV[1, 100:] = float("-inf")
    z_NV[2] += 500
    return z_NV.to(dtype)


def keys() -> Tensor:
    words_N4 = torch.zeros(N, 4, dtype=torch.int64)
    words_N4[:, 0], words_N4[:, 1], words_N4[:, 3] = 2, torch.arange(N) % 7, torch.arange(N)
    return words_N4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 64, V])
def test_the_most_likely_ids_and_their_tails(cuda: torch.device, dtype: torch.dtype, k: int) -> None:
    z_NV = logits(dtype)
    if k == V:
        z_NV = z_NV[2:]  # every id is kept, so every logit has to be finite
    expected = kernels.topk_logsumexp(z_NV, k, temperatures=(0.5, 2.0))
    z_NV = z_NV.to(cuda)
    with HostCopies(V):
        found = kernels.topk_logsumexp(z_NV, k, temperatures=(0.5, 2.0))
    assert found.ids_NK.device.type == found.log_tail_at[2.0].device.type == "cuda"
    assert torch.equal(found.ids_NK.cpu(), expected.ids_NK) and found.ids_NK.dtype == torch.int32
    pairs = [
        (found.log_probs_NK, expected.log_probs_NK),
        (found.logsumexp_N, expected.logsumexp_N),
        (found.log_tail_N, expected.log_tail_N),
        *((found.log_tail_at[t], expected.log_tail_at[t]) for t in (0.5, 2.0)),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_no_distribution_are_refused_as_on_the_cpu(cuda: torch.device, bad: float) -> None:
    z_NV = logits()
    z_NV[7] = bad
    calls: list[Any] = [
        lambda z: kernels.topk_logsumexp(z, 8),
        lambda z: kernels.sample(z, seed=0, keys_N4=keys()),
        lambda z: kernels.threshold_sample(z, 8, seed=0, keys_N4=keys()),
    ]
    for call in calls:
        for device in ("cpu", cuda):
            with pytest.raises(ModelError, match="row 7"):
                call(z_NV.to(device))


def test_a_row_with_fewer_finite_values_than_k_is_refused_as_on_the_cpu(cuda: torch.device) -> None:
    z_NV = logits()
    for device in ("cpu", cuda):
        with pytest.raises(ModelError, match="row 1"):
            kernels.topk_logsumexp(z_NV.to(device), 101)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 20},
        {"top_k": 50, "top_p": 0.95, "min_p": 0.01, "temperature": 1.5},
        {"greedy": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_ids_are_drawn(cuda: torch.device, dtype: torch.dtype, options: dict[str, Any]) -> None:
    z_NV = logits(dtype)
    expected = kernels.sample(z_NV, seed=3, keys_N4=keys(), **options)
    z_NV = z_NV.to(cuda)
    with HostCopies(V):
        found = kernels.sample(z_NV, seed=3, keys_N4=keys(), **options)
    assert found.device.type == "cuda" and torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("options", [{"top_p": 0.8}, {"min_p": 0.05}, {"top_p": 0.9, "min_p": 0.02}], ids=str)
def test_ids_are_drawn_as_often(cuda: torch.device, options: dict[str, Any]) -> None:
    """Top-p and min-p alone: the CPU rejects draws, with further random numbers, so that only frequencies agree."""
    draws = 20_000
    row_V = torch.randn(60, generator=torch.Generator().manual_seed(2)) * 1.5
    z_NV, words_N4 = row_V.expand(draws, -1).contiguous(), torch.zeros(draws, 4, dtype=torch.int64)
    words_N4[:, 1] = torch.arange(draws)
    on_cpu = kernels.sample(z_NV, seed=11, keys_N4=words_N4, **options)
    on_device = kernels.sample(z_NV.to(cuda), seed=11, keys_N4=words_N4, **options).cpu()
    a_V, b_V = (torch.bincount(ids, minlength=60).double() for ids in (on_cpu, on_device))
    assert torch.equal(a_V > 0, b_V > 0)
    seen = a_V + b_V > 0
    chi2, freedom = ((a_V - b_V) ** 2 / (a_V + b_V))[seen].sum(), int(seen.sum())
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5 + 8  # below the 99.99 % point


@pytest.mark.parametrize("dtype", DTYPES)
def test_threshold_samples(cuda: torch.device, dtype: torch.dtype) -> None:
    z_NV = logits(dtype)
    expected = kernels.threshold_sample(z_NV, 16, seed=5, keys_N4=keys())
    z_NV = z_NV.to(cuda)
    with HostCopies(V):
        found = kernels.threshold_sample(z_NV, 16, seed=5, keys_N4=keys())
    same_samples(found, expected)


def same_samples(found: ThresholdSample, expected: ThresholdSample, *, share: float = 0.97) -> None:
    """Equal ids in nearly all rows (the last bit of a sum can move a draw), and there equal numbers."""
    assert found.ids_NK.device.type == "cuda"
    home = ThresholdSample(*(x.cpu() for x in found if x is not None))
    same_N = (home.ids_NK == expected.ids_NK).all(1) & (home.counts_N == expected.counts_N)
    assert same_N.float().mean() >= share
    for name in ("weights_NK", "tau_N", "entropy_N"):
        torch.testing.assert_close(getattr(home, name)[same_N], getattr(expected, name)[same_N], rtol=1e-4, atol=1e-5)
