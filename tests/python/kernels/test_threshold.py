"""Threshold sampling by Rust and by torch's operations, against the definition in float64."""

from __future__ import annotations

from typing import Protocol

import pytest
import torch
from torch import Tensor

from thack import kernels
from thack.kernels import ThresholdSample, torch_reference


class Sampler(Protocol):
    def __call__(self, logits_NV: Tensor, k: int, *, seed: int, keys_N4: Tensor) -> ThresholdSample: ...


both = pytest.mark.parametrize(
    "sampler", [kernels.threshold_sample, torch_reference.threshold_sample], ids=["rust", "torch"]
)


def keys(n: int) -> Tensor:
    words_N4 = torch.zeros(n, 4, dtype=torch.int64)
    words_N4[:, 1] = torch.arange(n)
    return words_N4


def logits(rows: int, vocab: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def special_rows() -> Tensor:
    """Ties in whole numbers, few finite values, one id with nearly all mass, masks, equal logits, far from 0."""
    z_NV = logits(60, 1501, scale=4.0)
    z_NV[:10] = z_NV[:10].round()
    for row, finite in zip(range(10, 16), (1, 2, 15, 16, 17, 40), strict=True):
        z_NV[row, finite:] = float("-inf")
    z_NV[16:20, 7] = torch.tensor([30.0, 60.0, 90.0, 200.0])
    z_NV[20:22, 3:] = torch.tensor([-1e4, torch.finfo(torch.float32).min])[:, None]
    z_NV[22:24] = torch.tensor([0.0, -700.0])[:, None]
    z_NV[24, 16:] = float("-inf")
    z_NV[24, :16] = 1.0  # exactly k equal ids
    z_NV[25:30] += torch.tensor([-1e4, -300.0, 300.0, 1e4, 3e4])[:, None]
    return z_NV


def repeated(row_V: Tensor, n: int) -> Tensor:
    return row_V.expand(n, -1).contiguous()


def dense(found: ThresholdSample, vocab: int) -> Tensor:
    """The weights as rows over the vocabulary, float64."""
    out_NV = torch.zeros(len(found.tau_N), vocab, dtype=torch.float64)
    return out_NV.scatter_add_(1, found.ids_NK.long(), found.weights_NK.double())


def threshold(p_V: Tensor, k: int) -> float:
    """τ of Σ min(1, p/τ) = k by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((p_V / middle).clamp_max(1).sum()) > k else (low, middle)
    return high


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 2.0, 6.0])
def test_ids_are_drawn_with_the_probabilities_of_the_definition(
    sampler: Sampler, scale: float, dtype: torch.dtype
) -> None:
    """Pitfall 8: an id is kept with min(1, p/τ) and weighs max(p, τ); the draw under every point alone passes χ²."""
    n, vocab, k = 6000, 90, 8
    row_V = logits(1, vocab, scale=scale)[0].to(dtype)
    p_V = torch.softmax(row_V.double(), 0)
    tau = threshold(p_V, k)
    found = sampler(repeated(row_V, n), k, seed=4, keys_N4=keys(n))
    assert (found.counts_N == k).all() and (found.ids_NK[:, 1:] > found.ids_NK[:, :-1]).all()
    assert found.tau_N.double().allclose(torch.tensor(tau, dtype=torch.float64), rtol=1e-5)
    weights_NV = dense(found, vocab)
    kept_NV = weights_NV > 0
    torch.testing.assert_close(weights_NV, kept_NV * p_V.clamp_min(tau), rtol=1e-5, atol=0)
    kept_V = (p_V / tau).clamp_max(1)
    error_V = (kept_V * (1 - kept_V) / n).sqrt()
    assert ((kept_NV.double().mean(0) - kept_V).abs() <= 5 * error_V + 1e-9).all()
    torch.testing.assert_close(weights_NV.sum(1), torch.ones(n, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.entropy_N[0].double(), -(p_V * p_V.log()).sum(), atol=1e-5, rtol=1e-5)
    ends_V = torch.where(p_V < tau, p_V, 0.0).cumsum(0) / tau
    starts_V = torch.cat([torch.zeros(1, dtype=torch.float64), ends_V[:-1]])
    drawn_NM = found.ids_NK[found.weights_NK < tau * (1 + 1e-6)].view(n, -1)
    drawn_NM = drawn_NM[:, -round(float(ends_V[-1])) :]
    for point in range(drawn_NM.shape[1]):
        share_V = (ends_V.clamp_max(point + 1) - starts_V.clamp_min(point)).clamp_min(0)
        expected_V, seen_V = share_V * n, torch.bincount(drawn_NM[:, point], minlength=vocab)
        assert seen_V[share_V < 1e-6].sum() <= 1
        often = expected_V > 5
        chi2, freedom = ((seen_V - expected_V) ** 2 / expected_V)[often].sum(), int(often.sum())
        assert chi2 < freedom + 4 * (2 * freedom) ** 0.5 + 8  # below the 99.99 % point


@both
def test_it_beats_independent_draws_by_half(sampler: Sampler) -> None:
    """Mean squared error at equal ids, on a Zipf-shaped row."""
    vocab, k, n = 2000, 16, 2000
    row_V = -1.2 * torch.log(torch.arange(1.0, vocab + 1))
    p_V = torch.softmax(row_V.double(), 0)
    found = sampler(repeated(row_V, n), k, seed=4, keys_N4=keys(n))
    ours = ((dense(found, vocab) - p_V) ** 2).sum(1).mean()
    independent = (1 - (p_V**2).sum()) / k  # Σ p(1−p)/k
    assert ours <= independent / 2


@both
def test_few_ids_with_mass_are_all_kept_as_they_are(sampler: Sampler) -> None:
    z_NV = torch.full((1, 40), float("-inf"))
    z_NV[0, [3, 20]] = torch.tensor([0.0, 1.0])
    for k in (8, 40):
        found = sampler(z_NV, k, seed=0, keys_N4=keys(1))
        assert found.counts_N.tolist() == [2] and found.tau_N.tolist() == [0]
        assert found.ids_NK[0].tolist() == [3] + [20] * (k - 1)
        assert found.weights_NK[0, :2].sum().item() == pytest.approx(1.0)
        assert found.weights_NK[0, 2:].sum() == 0


@both
@pytest.mark.parametrize("k", [1, 16, 1501])
def test_every_row_sums_to_one_with_ids_in_order(sampler: Sampler, k: int) -> None:
    z_NV = special_rows()
    found = sampler(z_NV, k, seed=1, keys_N4=keys(len(z_NV)))
    p_NV = torch.softmax(z_NV.double(), 1)
    for n, count in enumerate(found.counts_N.tolist()):
        ids, weights = found.ids_NK[n], found.weights_NK[n]
        assert 1 <= count <= k and (ids[1:count] > ids[: count - 1]).all() and (ids[count:] == ids[count - 1]).all()
        assert (weights[count:] == 0).all() and (p_NV[n, ids[weights > 0].long()] > 0).all()
        assert weights.double().sum().item() == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_both_draw_the_same_ids(dtype: torch.dtype) -> None:
    """In all but a few rows: the last bit of a sum can move a draw. Padded ids are cut off by a view.

    Rust may keep ids that weigh less than 1e-32 as well.
    """
    z_NV = special_rows().to(dtype)[:, :1400]
    if dtype is torch.float16:
        z_NV = z_NV.clamp_min(-6e4)
    ours, theirs = (
        sampler(z_NV, 16, seed=9, keys_N4=keys(len(z_NV)))
        for sampler in (torch_reference.threshold_sample, kernels.threshold_sample)
    )
    ours_NV, theirs_NV = dense(ours, 1400), dense(theirs, 1400)
    assert torch.isclose(ours_NV, theirs_NV, rtol=1e-5, atol=1e-32).all(1).float().mean() > 0.97
    ours.tau_N[24] = theirs.tau_N[24]  # k equal ids: the last bit says whether they are certain or drawn for certain
    torch.testing.assert_close(ours.tau_N, theirs.tau_N, rtol=1e-5, atol=1e-32)
    torch.testing.assert_close(ours.entropy_N, theirs.entropy_N, rtol=1e-5, atol=2e-6)


@both
def test_a_draw_depends_on_its_key_alone(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 17: not on the batch, the order of rows, or how many are worked on together."""
    z_NV, words_N4 = special_rows(), keys(60)
    whole = sampler(z_NV, 16, seed=5, keys_N4=words_N4)
    turned = sampler(z_NV.flip(0), 16, seed=5, keys_N4=words_N4.flip(0))
    single = [sampler(z_NV[i : i + 1], 16, seed=5, keys_N4=words_N4[i : i + 1]) for i in range(60)]
    monkeypatch.setattr(torch_reference, "_CHUNK", 7 * z_NV.shape[1])
    parts = sampler(z_NV, 16, seed=5, keys_N4=words_N4)
    for field, column in whole._asdict().items():
        if column is None:  # no labels were given
            continue
        assert torch.equal(column, getattr(turned, field).flip(0)) and torch.equal(column, getattr(parts, field))
        assert torch.equal(column, torch.cat([getattr(one, field) for one in single]))
    assert not torch.equal(whole.ids_NK, sampler(z_NV, 16, seed=6, keys_N4=words_N4).ids_NK)
