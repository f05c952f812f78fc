"""What is kept of a row of logits, against the definitions written out in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thack import kernels
from thack.errors import ModelError, UsageError
from thack.losses import forward_kl
from thack.schema.targets import TargetSpec
from thack.targets import DenseTarget, FrozenHeadTarget, SampledTarget, Target, TopKTarget, select
from thack.targets.keys import MONITOR_SAMPLE, MULTINOMIAL_SAMPLE, multinomial_sample

V = 40


def logits(rows: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))


def keys(rows: int) -> Tensor:
    found = torch.zeros(rows, 4, dtype=torch.int64)
    found[:, 1] = torch.arange(rows)
    return found


def select_by(word: str, rows: Tensor, **more: Any) -> Target:
    return select(rows, TargetSpec.parse(word), width=V, seed=3, keys_N4=keys(len(rows)), **more)


def probabilities(target: Target) -> np.ndarray:
    """The distribution that a target stands for, float64 [N, V], without its tail."""
    if isinstance(target, DenseTarget):
        return target.log_probs_NV.double().exp().numpy()
    assert not isinstance(target, FrozenHeadTarget)
    weights = target.log_probs_NK.exp() if isinstance(target, TopKTarget) else target.weights_NK
    out = torch.zeros(len(target), target.vocab_size, dtype=torch.float64)
    return out.scatter_add_(1, target.ids_NK.long(), weights.double()).numpy()


def test_pitfall_1_renormalised_top_k_has_its_optimum_at_the_scaled_distribution() -> None:
    target = select_by("live/renormalised:4", logits(5))
    p = torch.softmax(logits(5).double(), 1).numpy()
    kept = np.argsort(-p, axis=1, kind="stable")[:, :4]
    expected = np.zeros_like(p)
    np.put_along_axis(expected, kept, np.take_along_axis(p, kept, 1), 1)
    np.testing.assert_allclose(probabilities(target), expected / expected.sum(1, keepdims=True), atol=1e-6)
    student = torch.randn(5, V, generator=torch.Generator().manual_seed(1), requires_grad=True)
    forward_kl(student, target).sum().backward()
    assert student.grad is not None
    wanted = torch.softmax(student.detach().double(), 1).numpy() - probabilities(target)
    np.testing.assert_allclose(student.grad.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("word", ["live/multinomial:6", "live/mixed:3+4"])
def test_drawn_targets_sum_to_one_and_are_right_on_average(word: str) -> None:
    repeats = 4000
    found = probabilities(select_by(word, logits(1).repeat(repeats, 1)))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    p = torch.softmax(logits(1)[0].double(), 0).numpy()
    # A weight is at most 1, so its variance is at most p.
    assert np.all(np.abs(found.mean(0) - p) < 4 * np.sqrt(p / repeats) + 1e-6)


def test_multinomial_counts_are_those_of_the_draws() -> None:
    target = select_by("live/multinomial:8", logits(30))
    assert isinstance(target, SampledTarget)
    counts = (target.weights_NK * 8).round()
    torch.testing.assert_close(counts / 8, target.weights_NK)
    assert (counts.sum(1) == 8).all()
    for ids, weights, count in zip(target.ids_NK, target.weights_NK, target.counts_N, strict=True):
        assert (ids[1:count] > ids[: count - 1]).all() and (weights[:count] > 0).all()
        assert (weights[count:] == 0).all() and (ids[count:] == ids[count - 1]).all()
    p = torch.softmax(logits(30).double(), 1)
    torch.testing.assert_close(target.entropy_N.double(), -(p * p.log()).sum(1), atol=1e-5, rtol=1e-5)


def test_multinomial_draws_one_row_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws as of a matrix with a row for each, which [N·draws, V] logits would be."""
    z_NV, draws = logits(30), 8
    words_ND4 = keys(30)[:, None, :].repeat(1, draws, 1)
    words_ND4[:, :, 2] = MULTINOMIAL_SAMPLE + torch.arange(draws)
    rows_NDV = torch.log_softmax(z_NV, 1).repeat_interleave(draws, 0)
    ids_ND = kernels.sample(rows_NDV, seed=3, keys_N4=words_ND4.view(-1, 4)).view(30, draws)
    seen, sample = [], kernels.sample

    def watched(logits_NV: Tensor, **more: Any) -> Tensor:
        seen.append(len(logits_NV))
        return sample(logits_NV, **more)

    monkeypatch.setattr(kernels, "sample", watched)
    found = select_by("live/multinomial:8", z_NV)
    assert seen == [30] * draws
    expected_NV = torch.zeros(30, V, dtype=torch.float64).scatter_add_(
        1, ids_ND, torch.full((30, draws), 1 / 8.0).double()
    )
    np.testing.assert_allclose(probabilities(found), expected_NV.numpy(), atol=1e-7)


def test_responses_to_one_prompt_have_multinomial_draws_of_their_own() -> None:
    """Their errors average out: 500 responses of 4 draws are as good as 2,000 draws."""
    names, responses = keys(1).repeat(500, 1), torch.arange(500)
    names[:, 2] = responses
    row_V = logits(1)
    found = select(row_V.repeat(500, 1), TargetSpec.parse("live/multinomial:4"), width=V, seed=3, keys_N4=names)
    p = torch.softmax(row_V[0].double(), 0).numpy()
    assert np.all(np.abs(probabilities(found).mean(0) - p) < 4 * np.sqrt(p / 2000) + 1e-6)
    numbers = torch.stack([multinomial_sample(responses, draw, 4) for draw in range(4)])
    assert len(numbers.unique()) == 2000
    assert int(numbers.min()) >= MULTINOMIAL_SAMPLE and int(numbers.max()) < MONITOR_SAMPLE - (1 << 20)


def test_a_prior_gives_the_tail_its_shape_and_leaves_the_kept_ids_alone() -> None:
    prior = torch.softmax(torch.randn(V, generator=torch.Generator().manual_seed(5)), 0)
    found = probabilities(select_by("live/mixed:3+prior", logits(6), prior_V=prior))
    p, u = torch.softmax(logits(6).double(), 1).numpy(), prior.double().numpy()
    for row, truth in zip(found, p, strict=True):
        kept = np.argsort(-truth, kind="stable")[:3]
        tail = np.setdiff1d(np.arange(V), kept)
        np.testing.assert_allclose(row[kept], truth[kept], atol=1e-6)
        np.testing.assert_allclose(row[tail], truth[tail].sum() * u[tail] / u[tail].sum(), atol=1e-6)


def test_rows_without_a_tail_stay_whole() -> None:
    rows = torch.full((2, V), -120.0)  # a tail that float32 cannot tell from none
    rows[0, 3], rows[1, 3], rows[1, 5] = 0.0, 0.0, 0.0
    found = probabilities(select_by("live/mixed:2+prior+2", rows, prior_V=torch.full((V,), 1 / V)))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found[:, 3], [1, 0.5], atol=1e-6)


@pytest.mark.parametrize("word", ["live", "live/top-k:5", "live/sampled:4", "live/renormalised:4"])
def test_padded_ids_are_left_out(word: str) -> None:
    """The same target as of logits that never had them."""
    padded = torch.cat([logits(4), torch.full((4, 3), 9.0)], 1)
    found, expected = select_by(word, padded), select_by(word, logits(4))
    assert found.vocab_size == V
    assert np.array_equal(probabilities(found), probabilities(expected))


@pytest.mark.parametrize("word", ["live", "live/top-k:4", "live/renormalised:4", "live/sampled:4", "live/mixed:4+2"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_no_distribution_is_named(word: str, bad: float) -> None:
    rows = logits(3)
    rows[1, 7] = bad
    with pytest.raises(ModelError, match="row 1"):
        select_by(word, rows)


def test_what_a_kind_needs_is_asked_for() -> None:
    with pytest.raises(UsageError, match="keys_N4 is missing"):
        select(logits(2), TargetSpec.parse("sampled:3"), width=V)
    with pytest.raises(UsageError, match="prior_V is missing"):
        select_by("live/mixed:3+prior", logits(2))


@pytest.mark.parametrize("word", ["dense", "top-k:3", "sampled:3"])
def test_what_broadcasting_would_take_in_another_shape_is_refused(word: str) -> None:
    spec, z, keys_N4 = TargetSpec.parse(word), logits(2), torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"labels_N has shape \(1,\), not \(2,\)"):
        select(z, spec, width=V, keys_N4=keys_N4, labels_N=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"prior_V has shape \(1,\)"):
        select(z, spec, width=V, keys_N4=keys_N4, prior_V=torch.ones(1))
    with pytest.raises(UsageError, match=f"width = {V + 1}: the logits have {V} ids"):
        select(z, spec, width=V + 1, keys_N4=keys_N4)
