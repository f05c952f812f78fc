"""Targets thinned out as a cache would, against the definitions written out in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thack.config import DistillSettings, LossSettings, TargetSettings
from thack.errors import UndefinedLoss, UsageError
from thack.losses import forward_kl
from thack.models.batch import Batch
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget
from thack.training.distill import check_combination
from thack.training.live import LiveTeacher, draw_keys, mixed_target, multinomial_target, top_k_target

from .small import model, sequences

V = 40


def log_probs(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(3 * torch.randn(rows, V, generator=generator), dim=1)


def keys(rows: int, epoch: int = 0) -> Tensor:
    found = torch.zeros(rows, 4, dtype=torch.int64)
    found[:, 0], found[:, 1] = epoch, torch.arange(rows)
    return found


def dense(target: Target) -> np.ndarray:
    """The distribution that a target stands for, float64 [N, V], without the bucket."""
    if isinstance(target, DenseTarget):
        return target.log_probs_NV.double().exp().numpy()
    weights = target.log_probs_NK.exp() if isinstance(target, TopKTarget) else target.weights_NK
    out = torch.zeros(len(target), target.vocab_size, dtype=torch.float64)
    return out.scatter_add_(1, target.ids_NK.long(), weights.double()).numpy()


def test_trap_1_renormalised_top_k_has_its_optimum_at_the_scaled_head() -> None:
    log_p = log_probs(5)
    target = top_k_target(log_p, 4, renormalised=True)
    p = log_p.double().exp().numpy()
    kept = np.argsort(-p, axis=1, kind="stable")[:, :4]
    expected = np.zeros_like(p)
    np.put_along_axis(expected, kept, np.take_along_axis(p, kept, 1), 1)
    np.testing.assert_allclose(dense(target), expected / expected.sum(1, keepdims=True), atol=1e-6)
    logits = torch.randn(5, V, generator=torch.Generator().manual_seed(1), requires_grad=True)
    forward_kl(logits, target).sum().backward()
    assert logits.grad is not None
    wanted = torch.softmax(logits.detach().double(), 1).numpy() - dense(target)
    np.testing.assert_allclose(logits.grad.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda log_p, k: multinomial_target(log_p, 6, seed=3, keys_N4=k),
        lambda log_p, k: mixed_target(log_p, TargetSettings(kind="mixed", k=3, tail_draws=4), None, seed=3, keys_N4=k),
    ],
    ids=["multinomial", "head and drawn tail"],
)
def test_sampled_targets_sum_to_one_and_are_right_on_average(make: Any) -> None:
    repeats = 4000
    log_p = log_probs(1).repeat(repeats, 1)
    found = dense(make(log_p, keys(repeats)))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    p = log_p[0].double().exp().numpy()
    # A weight is at most 1, so its variance is at most p.
    assert np.all(np.abs(found.mean(0) - p) < 4 * np.sqrt(p / repeats) + 1e-6)


def test_multinomial_counts_are_those_of_the_draws() -> None:
    target = multinomial_target(log_probs(30), 8, seed=1, keys_N4=keys(30))
    assert isinstance(target, SampledTarget)
    counts = (target.weights_NK * 8).round()
    torch.testing.assert_close(counts / 8, target.weights_NK)
    assert (counts.sum(1) == 8).all()
    for ids, weights, count in zip(target.ids_NK, target.weights_NK, target.counts_N, strict=True):
        assert (ids[1:count] > ids[: count - 1]).all() and (weights[:count] > 0).all()
        assert (weights[count:] == 0).all() and (ids[count:] == ids[count - 1]).all()
    p = log_probs(30).double().exp()
    torch.testing.assert_close(target.entropy_N.double(), -(p * p.log()).sum(1), atol=1e-5, rtol=1e-5)


def test_a_prior_gives_the_tail_its_shape_and_leaves_the_head_alone() -> None:
    log_p, prior = log_probs(6), torch.softmax(torch.randn(V, generator=torch.Generator().manual_seed(5)), 0)
    found = dense(mixed_target(log_p, TargetSettings(kind="mixed", k=3, tail_prior=1), prior, seed=0, keys_N4=keys(6)))
    p, u = log_p.double().exp().numpy(), prior.double().numpy()
    for row, truth in zip(found, p, strict=True):
        head = np.argsort(-truth, kind="stable")[:3]
        tail = np.setdiff1d(np.arange(V), head)
        np.testing.assert_allclose(row[head], truth[head], atol=1e-6)
        np.testing.assert_allclose(row[tail], truth[tail].sum() * u[tail] / u[tail].sum(), atol=1e-6)


def test_rows_without_a_tail_stay_whole() -> None:
    logits = torch.full((2, V), -120.0)  # a tail that float32 cannot tell from none
    logits[0, 3], logits[1, 3], logits[1, 5] = 0.0, 0.0, 0.0
    settings = TargetSettings(kind="mixed", k=2, tail_draws=2, tail_prior=0.5)
    log_p = torch.log_softmax(logits, dim=1)
    found = dense(mixed_target(log_p, settings, torch.full((V,), 1 / V), seed=0, keys_N4=keys(2)))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found[:, 3], [1, 0.5], atol=1e-6)


@pytest.mark.parametrize("kind", ["sampled", "multinomial", "mixed"])
def test_draws_are_those_of_a_cache_unless_they_are_fresh(kind: Any) -> None:
    teacher, data = model(1), sequences(4)
    settings = TargetSettings(kind=kind, k=3, tail_draws=2 if kind == "mixed" else 0)
    batch = Batch.of(data, teacher.device)

    def drawn(changed: TargetSettings, epoch: int, examples: Any = data) -> np.ndarray:
        maker = LiveTeacher(teacher, teacher.vocab_size, changed, seed=0, examples=examples)
        return dense(maker.target(data, batch, epoch))

    fixed = drawn(settings, 0)
    assert np.array_equal(fixed, drawn(settings, 5))
    assert not np.array_equal(fixed, drawn(replace(settings, redraw=True), 5))
    assert not np.array_equal(drawn(settings, 1, []), drawn(settings, 2, []))  # online: other responses anyway
    halves = [data[:1], data[1:]]
    maker = LiveTeacher(teacher, teacher.vocab_size, settings, seed=0, examples=data)
    parts = [dense(maker.target(part, Batch.of(part, teacher.device), 0)) for part in halves]
    np.testing.assert_allclose(np.concatenate(parts), fixed, atol=1e-6)


def test_the_prior_is_the_mean_tail_of_the_examples() -> None:
    teacher, data = model(1), sequences(5)
    settings = TargetSettings(kind="mixed", k=3, tail_prior=1)
    maker = LiveTeacher(teacher, teacher.vocab_size, settings, seed=0, examples=data)
    p = torch.log_softmax(teacher(Batch.of(data, teacher.device)).detach().double(), 1).exp().numpy()
    np.put_along_axis(p, np.argsort(-p, axis=1)[:, :3], 0, 1)
    mean = p.sum(0) / p.sum()
    found = maker._prior().double().numpy()
    np.testing.assert_allclose(found, (mean + 1e-3 / len(mean)) / (1 + 1e-3), rtol=1e-4)


def test_the_keys_of_a_row_name_its_token() -> None:
    data = [replace(s, sample=i) for i, s in enumerate(sequences(3))]
    found = draw_keys(data, 7).tolist()
    assert found == [[7, s.example, s.sample, t] for s in data for t in range(len(s.response_ids))]


def test_what_cannot_be_is_refused_before_anything_is_loaded() -> None:
    base = DistillSettings(student="s", teacher="t", data=replace(DistillSettings().data, path="d"))
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"target": TargetSettings(kind="mixed")}, UsageError, "leaves a share of the tail"),
        ({"target": TargetSettings(tail_prior=0.5)}, UsageError, "belong to target.kind = mixed"),
        ({"cache": "c", "target": TargetSettings(kind="top-k")}, UsageError, "applies only to a live teacher"),
        (
            {"target": TargetSettings(kind="sampled"), "loss": LossSettings(divergence="jsd")},
            UndefinedLoss,
            "jsd is not defined on target.kind = sampled",
        ),
        (
            {"target": TargetSettings(kind="top-k"), "loss": LossSettings(temperature=2)},
            UndefinedLoss,
            "loss.temperature = 2 is not defined",
        ),
        (
            {
                "target": TargetSettings(kind="mixed", tail_prior=1),
                "source": replace(base.source, kind="online-teacher"),
            },
            UsageError,
            "the prior is the mean tail",
        ),
    ]
    for changes, error, message in refused:
        with pytest.raises(error, match=message):
            check_combination(replace(base, **changes))


def test_a_run_on_a_thinned_target_is_the_run_on_that_cache(tmp_path: Path) -> None:
    """Live with target.kind = top-k trains as a top-k cache of the same responses does."""
    teacher, data = model(1), sequences(6)
    batch = Batch.of(data, teacher.device)
    from thack import kernels

    logits = teacher(batch).detach()
    found = LiveTeacher(teacher, teacher.vocab_size, TargetSettings(kind="top-k", k=5), seed=0, examples=data).target(
        data, batch, 0
    )
    cached = kernels.topk_logsumexp(logits, 5)
    assert isinstance(found, TopKTarget) and torch.equal(found.ids_NK, cached.ids_NK)
    torch.testing.assert_close(found.log_probs_NK, cached.log_probs_NK)
    torch.testing.assert_close(found.log_tail_N, cached.log_tail_N)
