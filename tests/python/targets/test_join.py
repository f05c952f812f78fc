"""Targets of several teachers as one, against the definition in float64. C teachers, N rows, V vocabulary, K ids."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thack import kernels
from thack.errors import UndefinedLoss
from thack.losses.mix import hard_share
from thack.losses.sparse import sparse_divergence
from thack.schema.targets import Divergence
from thack.targets.crop import crop
from thack.targets.entropy import entropy_bounds, entropy_of
from thack.targets.frozen_head import FrozenHead
from thack.targets.join import concatenate, mix
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, Target, TopKTarget

N, V = 6, 24


def logits(seed: int, sharpness: float = 2.0, rows: int = N) -> Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * sharpness


def dense(seed: int) -> DenseTarget:
    log_p_NV = torch.log_softmax(logits(seed), dim=1)
    return DenseTarget(log_probs_NV=log_p_NV, realised_logprob_N=log_p_NV[:, 3])


def top_k(seed: int, k: int = 4) -> TopKTarget:
    values, ids = torch.log_softmax(logits(seed), dim=1).topk(k, dim=1)
    ids, order = ids.sort(dim=1)
    values = values.gather(1, order)
    tail = torch.log1p(-values.exp().sum(dim=1))
    return TopKTarget(ids_NK=ids.int(), log_probs_NK=values, log_tail_N=tail, vocab_size=V, log_tail_at={2.0: tail})


def drawn(logits_NV: Tensor, k: int, seed: int = 0) -> SampledTarget:
    keys_N4 = torch.zeros(len(logits_NV), 4, dtype=torch.int64)
    keys_N4[:, 1] = torch.arange(len(logits_NV))
    found = kernels.threshold_sample(logits_NV, k, seed=seed, keys_N4=keys_N4)
    return SampledTarget(
        ids_NK=found.ids_NK,
        weights_NK=found.weights_NK,
        counts_N=found.counts_N,
        tau_N=found.tau_N,
        entropy_N=found.entropy_N,
        vocab_size=V,
    )


def spread(target: Target) -> Tensor:
    """p_NV, or its estimate, in float64."""
    if isinstance(target, DenseTarget):
        return target.log_probs_NV.double().exp()
    assert not isinstance(target, FrozenHeadTarget)
    values = target.weights_NK if isinstance(target, SampledTarget) else target.log_probs_NK.exp()
    return torch.zeros(len(target), V, dtype=torch.float64).scatter_add_(1, target.ids_NK.long(), values.double())


def rows_of_weights(seed: int = 9, teachers: int = 2, rows: int = N) -> Tensor:
    drawn = torch.rand(rows, teachers, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn[:2] = torch.eye(teachers)[[0, -1]]  # a teacher alone: the others' ids weigh 0, before and behind its own
    return drawn / drawn.sum(dim=1, keepdim=True)


def test_rows_stand_one_target_after_the_other() -> None:
    for targets in ([dense(0), dense(1)], [top_k(0), top_k(1)], [drawn(logits(0), 3), drawn(logits(1), 6)]):
        joined = concatenate(targets)
        assert torch.equal(spread(joined), torch.cat([spread(t) for t in targets]))
        assert joined.vocab_size == V and len(joined) == 2 * N
    kept = concatenate([top_k(0), top_k(1)])
    assert isinstance(kept, TopKTarget)
    assert kept.log_tail_N is not None and len(kept.log_tail_N) == len(kept.log_tail_at[2.0]) == 2 * N
    mixed = mix([drawn(logits(0), 3), drawn(logits(1), 3)], torch.full((N, 2), 0.5))
    both = concatenate([drawn(logits(2), 3), mixed])
    assert isinstance(both, SampledTarget) and both.entropy_above_N is not None
    assert both.entropy_above_N.tolist() == pytest.approx([0.0] * N + [math.log(2)] * N)


def test_no_rows_are_a_target_too() -> None:
    none = drawn(logits(0), 3).rows(slice(0, 0))
    assert len(mix([none, none], torch.zeros(0, 2))) == len(crop(none, V)) == 0


def test_unknown_log_probs_of_the_realised_token_are_nan() -> None:
    unknown = DenseTarget(log_probs_NV=dense(1).log_probs_NV)
    found = concatenate([dense(0), unknown]).realised_logprob_N
    assert found is not None and found[:N].isfinite().all() and found[N:].isnan().all()
    assert concatenate([unknown, unknown]).realised_logprob_N is None


def test_dense_mixtures_are_the_weighted_sum() -> None:
    targets, weights_NC = [dense(0), dense(1), dense(2)], rows_of_weights(teachers=3)
    found = mix(targets, weights_NC)
    expected = sum(w_N[:, None] * spread(t) for t, w_N in zip(targets, weights_NC.T, strict=True))
    torch.testing.assert_close(spread(found), expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(spread(found)[0], spread(targets[0])[0])  # of weight 1
    assert found.realised_logprob_N is not None
    torch.testing.assert_close(found.realised_logprob_N.double().exp(), spread(found)[:, 3])


def test_an_id_without_mass_stays_without() -> None:
    half = torch.tensor([[0.0, -torch.inf]])
    found = mix([DenseTarget(log_probs_NV=half), DenseTarget(log_probs_NV=half)], torch.tensor([[0.5, 0.5]]))
    assert isinstance(found, DenseTarget) and found.log_probs_NV.tolist() == half.tolist()


def test_joined_samples_are_the_weighted_sum_of_the_samples() -> None:
    targets, weights_NC = [drawn(logits(0), 3), drawn(logits(1), 6)], rows_of_weights()
    found = mix(targets, weights_NC)
    assert isinstance(found, SampledTarget)
    expected = sum(w_N[:, None] * spread(t) for t, w_N in zip(targets, weights_NC.T, strict=True))
    torch.testing.assert_close(spread(found), expected, rtol=1e-6, atol=1e-7)
    for ids, weights, count in zip(found.ids_NK.tolist(), found.weights_NK.tolist(), found.counts_N, strict=True):
        assert ids[:count] == sorted(set(ids[:count])) and all(i == ids[count - 1] for i in ids[count:])
        assert not any(weights[count:])


def test_joined_samples_are_unbiased() -> None:
    """The mean of Σ w p̂ over draws against Σ w p, in float64: every z score, and their sum of squares."""
    draws, weights = 6000, torch.tensor([0.7, 0.3], dtype=torch.float64)
    rows = [logits(seed, rows=1).expand(draws, V).contiguous() for seed in (0, 1)]
    found = mix([drawn(rows[0], 3, seed=1), drawn(rows[1], 5, seed=2)], weights.expand(draws, 2))
    estimates = spread(found)
    expected_V = sum(w * torch.softmax(r[0].double(), dim=0) for w, r in zip(weights, rows, strict=True))
    deviation_V = estimates.std(dim=0) / draws**0.5
    z_V = (estimates.mean(dim=0) - expected_V) / deviation_V.clamp_min(1e-9)
    random = deviation_V > 1e-9
    assert torch.allclose(estimates.mean(dim=0)[~random], expected_V[~random], atol=1e-6)
    assert z_V[random].abs().max() < 4.5
    freedom = int(random.sum())
    assert (z_V[random] ** 2).sum() < freedom + 4 * (2 * freedom) ** 0.5 + 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_on_joined_samples_is_the_weighted_sum_of_the_losses(dtype: torch.dtype) -> None:
    """By the Rust kernel, and by the sweeps of other devices, which take float64 here too."""
    targets, weights_NC = [drawn(logits(0), 3), drawn(logits(1), 6)], rows_of_weights()
    student_NV = logits(5).to(dtype).requires_grad_()
    found_N = sparse_divergence(student_NV, mix(targets, weights_NC), Divergence())  # type: ignore[arg-type]
    parts = [sparse_divergence(student_NV, t, Divergence()) for t in targets]
    expected_N = sum(w_N.to(dtype) * part_N for w_N, part_N in zip(weights_NC.T, parts, strict=True))
    torch.testing.assert_close(found_N, expected_N, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(found_N.sum(), student_NV, retain_graph=True)
    (expected,) = torch.autograd.grad(expected_N.sum(), student_NV)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), st.integers(2, 4), st.sampled_from([0.1, 2.0, 40.0]))
def test_the_entropy_of_a_mixture_is_within_its_bounds(seed: int, teachers: int, sharpness: float) -> None:
    """Of samples and of projected rows, which know each teacher's alone; equal bounds where one has all weight."""
    rows = [logits(seed + c, sharpness) for c in range(teachers)]
    weights_NC = rows_of_weights(seed, teachers)
    log_p = [torch.log_softmax(row, dim=1) for row in rows]
    exact_N = entropy_of(spread(mix([DenseTarget(log_probs_NV=one) for one in log_p], weights_NC)).log())
    head = FrozenHead(weight_VH=torch.ones(V, 2), fingerprint="")
    for targets in ([drawn(row, 3) for row in rows], [head.project(one) for one in log_p]):
        low_N, high_N = entropy_bounds(mix(targets, weights_NC))
        assert (low_N - 1e-5 <= exact_N).all() and (exact_N <= high_N + 1e-5).all()
        assert (high_N <= math.log(V) + 1e-5).all() and torch.equal(low_N[:2], high_N[:2])


def test_two_sure_teachers_that_disagree_are_not_sure_together() -> None:
    one = torch.ones(1)
    sure = [
        SampledTarget(
            ids_NK=torch.tensor([[i]]).int(), weights_NK=one[:, None], counts_N=one.int(), tau_N=0 * one,
            entropy_N=0 * one, vocab_size=8,
        )
        for i in (1, 2)
    ]  # fmt: skip
    found = hard_share("entropy", mix(sure, torch.tensor([[0.5, 0.5]])), torch.tensor([1]))
    assert abs(float(found.share_N) - 2 / 3) <= float(found.unsure_N) + 1e-6  # H(p) = log 2, of log 8 at most


def test_top_k_mixtures_are_refused() -> None:
    with pytest.raises(UndefinedLoss, match="mass is not known"):
        mix([top_k(0), top_k(1)], rows_of_weights())
