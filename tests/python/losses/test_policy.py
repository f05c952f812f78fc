"""Policy gradients against their definition: every response of a tiny language is enumerated, in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from thack.config import LossSettings, PolicySettings
from thack.errors import UndefinedLoss
from thack.losses import token_losses
from thack.losses.fused import fused_divergence
from thack.losses.policy import Behaviour, columns, later_advantages, policy_loss
from thack.losses.rows import Sides, sides_of
from thack.schema.policy import PolicyGradient
from thack.targets.projected import Projection
from thack.targets.realised import realised_log_probs
from thack.targets.types import DenseTarget, SampledTarget, TopKTarget

V, T = 3, 3
PREFIXES = [prefix for length in range(T) for prefix in product(range(V), repeat=length)]
RESPONSES = list(product(range(V), repeat=T))
ROWS = {prefix: row for row, prefix in enumerate(PREFIXES)}


def table(seed: int, size: float = 1.0) -> Tensor:
    """Logits after every prefix: a whole language model."""
    return size * torch.randn(len(PREFIXES), V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_prob(table_PV: Tensor, response: tuple[int, ...]) -> Tensor:
    """log-probability of each token, [T]."""
    log_p_PV = torch.log_softmax(table_PV, 1)
    return torch.stack([log_p_PV[ROWS[response[:t]], response[t]] for t in range(T)])


def settings(**policy: Any) -> LossSettings:
    return LossSettings(weight=0.0, policy=PolicySettings(weight=1.0, **policy))


def expected(given: LossSettings, student: Tensor, teacher: Tensor, writer: Tensor) -> tuple[Tensor, Tensor]:
    """(value, gradient by the student's table): Σ over all responses of the writer, weighted by their probability."""
    student = student.clone().requires_grad_()
    log_p_PV, total = torch.log_softmax(teacher, 1), torch.zeros((), dtype=torch.float64)
    for response in RESPONSES:
        rows = torch.tensor([ROWS[response[:t]] for t in range(T)])
        log_b_T = log_prob(writer, response)
        later_T = later_advantages(log_prob(teacher, response) - log_b_T, [T], given.policy.discount)
        sides = replace(sides_of(given), behaviour=Behaviour(log_prob_N=log_b_T, later_N=later_T))
        target = DenseTarget(log_probs_NV=log_p_PV[rows])
        loss_T = token_losses(student[rows], target, torch.tensor(response), given, sides)
        total = total + log_b_T.sum().exp() * loss_T.sum()
    (gradient,) = torch.autograd.grad(total, student)
    return total.detach(), gradient


def of_states(writer: Tensor, student: Tensor, teacher: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """(value, gradient) of Σ_prefix P_writer(prefix) · KL at it, straight from the definition."""
    student = student.clone().requires_grad_()
    log_q, log_p = torch.log_softmax(student, 1), torch.log_softmax(teacher, 1)
    kl_P = ((log_q.exp() * (log_q - log_p)) if reverse else (log_p.exp() * (log_p - log_q))).sum(1)
    log_b = torch.log_softmax(writer, 1)
    mass_P = torch.stack(
        [
            torch.stack([torch.zeros(()), *(log_b[ROWS[p[:t]], p[t]] for t in range(len(p)))]).sum().exp()
            for p in PREFIXES
        ]
    )
    total = (mass_P * kl_P).sum()
    (gradient,) = torch.autograd.grad(total, student)
    return total.detach(), gradient


@pytest.mark.parametrize("importance", ["none", "truncated", "ppo"])
def test_k1_on_policy_is_the_gradient_of_reverse_kl_at_each_token(importance: str) -> None:
    student, teacher = table(0), table(1)
    value, gradient = expected(settings(importance=importance), student, teacher, student)
    for found, wanted in zip((value, gradient), of_states(student, student, teacher, reverse=True), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_undiscounted_it_is_the_gradient_of_reverse_kl_of_whole_responses() -> None:
    student, teacher = table(0).requires_grad_(), table(1)
    log_q = torch.stack([log_prob(student, r).sum() for r in RESPONSES])
    log_p = torch.stack([log_prob(teacher, r).sum() for r in RESPONSES])
    (wanted,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), student)
    _, gradient = expected(settings(discount=1.0), student.detach(), teacher, student.detach())
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-14)
    _, short = expected(settings(), student.detach(), teacher, student.detach())
    assert (short - wanted).abs().max() > 0.01


def test_importance_weights_correct_for_an_earlier_student() -> None:
    """Unbiased with a bound that nothing reaches; without weights, or clipped, it is not."""
    student, teacher, writer = table(0), table(1), table(2)
    _, wanted = of_states(writer, student, teacher, reverse=True)
    _, gradient = expected(settings(clip=1e6), student, teacher, writer)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-14)
    for changed in ({"importance": "none"}, {"clip": 0.1}, {"importance": "ppo", "clip": 0.2}):
        assert (expected(settings(**changed), student, teacher, writer)[1] - wanted).abs().max() > 1e-3


def test_the_whole_vocabulary_is_k1_without_its_noise() -> None:
    """loss.divergence = reverse_kl at the same prefixes has the gradient that k1 has in expectation."""
    student, teacher = table(3), table(4)
    weights_P = of_states(student, student, teacher, reverse=True)
    full = student.clone().requires_grad_()
    loss_P = token_losses(
        full,
        DenseTarget(log_probs_NV=torch.log_softmax(teacher, 1)),
        torch.zeros(len(PREFIXES), dtype=torch.int64),
        LossSettings(divergence="reverse_kl"),
    )
    log_q = torch.log_softmax(student, 1)
    mass_P = torch.stack(
        [sum((log_q[ROWS[p[:t]], p[t]] for t in range(len(p))), torch.zeros(())).exp() for p in PREFIXES]
    )
    (gradient,) = torch.autograd.grad((mass_P * loss_P).sum(), full)
    torch.testing.assert_close(gradient, weights_P[1], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, expected(settings(), student, teacher, student)[1], rtol=1e-12, atol=1e-14)


def test_k3_estimates_reverse_kl_and_has_the_gradient_of_forward_kl() -> None:
    student, teacher, writer = table(0), table(1), table(2)
    value, gradient = expected(settings(estimator="k3"), student, teacher, student)
    torch.testing.assert_close(value, of_states(student, student, teacher, reverse=True)[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, of_states(student, student, teacher, reverse=False)[1], rtol=1e-12, atol=1e-14)
    _, gradient = expected(settings(estimator="k3", clip=1e6), student, teacher, writer)
    torch.testing.assert_close(gradient, of_states(writer, student, teacher, reverse=False)[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("importance", ["none", "truncated", "ppo"])
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_value_and_slope_are_those_of_the_surrogate(estimator: Any, importance: Any) -> None:
    """The surrogate through autograd, from its definition, token by token."""
    if estimator == "k3" and importance == "ppo":
        return
    generator = torch.Generator().manual_seed(5)
    log_q, log_p, log_b, later = (-3 * torch.rand(200, dtype=torch.float64, generator=generator) for _ in range(4))
    policy = PolicyGradient(estimator=estimator, importance=importance, clip=0.2)
    behaviour = Behaviour(log_prob_N=log_b, later_N=None if estimator == "k3" else later)
    found = policy_loss(policy, log_q, log_p, behaviour)
    free = log_q.clone().requires_grad_()
    ratio = (free - log_b).exp()
    weight = {"none": torch.ones_like(log_q), "truncated": ratio.detach().clamp_max(1.2), "ppo": None}[importance]
    if estimator == "k3":
        assert weight is not None
        wanted = weight * ((log_p - free).exp() - 1 - (log_p - free))
    else:
        advantage = (log_p - log_q + later).detach()
        if weight is None:
            wanted = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        else:  # ∇(−w·A·log q), whose value is −w·A
            wanted = -weight * advantage * (1 + free - log_q)
    (slope,) = torch.autograd.grad(wanted.sum(), free)
    torch.testing.assert_close(found.value_N, wanted.detach())
    torch.testing.assert_close(found.slope_N, slope)
    assert (importance != "none") == bool(found.clipped_N.any())


def test_k3_is_finite_where_a_stale_token_has_become_unlikely() -> None:
    """ρ·e^d = p/b is small where e^d is beyond float32; also where ρ is at its bound."""
    log_q, log_p, log_b = (
        torch.tensor([-100.0, -95.0, -30.0]),
        torch.tensor([-1.0, -2.0, -3.0]),
        torch.tensor([-2.0, -2.0, -31.0]),
    )
    found = policy_loss(PolicyGradient(estimator="k3", clip=0.2), log_q, log_p, Behaviour(log_prob_N=log_b))
    wide = policy_loss(
        PolicyGradient(estimator="k3", clip=0.2), log_q.double(), log_p.double(), Behaviour(log_prob_N=log_b.double())
    )
    torch.testing.assert_close(found.slope_N[0].item(), -math.e, rtol=1e-4, atol=0)
    for one, other in ((found.value_N, wide.value_N), (found.slope_N, wide.slope_N)):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=0)


def test_later_advantages_by_the_definition_within_each_response() -> None:
    gaps, lengths, discount = torch.randn(7, dtype=torch.float64), [3, 1, 3], 0.7
    wanted, start = [], 0
    for length in lengths:
        part = gaps[start : start + length]
        wanted += [sum((discount**k * float(part[t + k]) for k in range(1, length - t)), 0.0) for t in range(length)]
        start += length
    torch.testing.assert_close(later_advantages(gaps, lengths, discount), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_fused_with_the_head_it_is_the_same(estimator: str) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 4, generator=generator), torch.randn(6, 4, generator=generator)
    labels, log_b = torch.randint(0, 6, (9,), generator=generator), -2 * torch.rand(9, generator=generator)
    target = DenseTarget(log_probs_NV=torch.randn(9, 6, generator=generator).log_softmax(1))
    given = replace(settings(estimator=estimator, clip=0.1), weight=0.3, ce_weight=0.2)
    found = []
    for fused in (True, False):
        x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        sides = Sides(behaviour=Behaviour(log_prob_N=log_b))
        if fused:
            total = fused_divergence(x, Projection(weight_VH=w), target, labels, given, chunk=4, sides=sides)
        else:
            total = token_losses(x @ w.t(), target, labels, given, sides).sum()
        total.backward()  # type: ignore[no-untyped-call,unused-ignore]
        assert x.grad is not None and w.grad is not None
        found.append((total.detach(), x.grad, w.grad, columns(sides.tally.take())))
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert found[0][3] == pytest.approx(found[1][3], rel=1e-5) and found[0][3]["policy/clipped_share"] > 0


def test_effective_samples_clipped_and_floored_tokens_are_counted() -> None:
    log_q = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    log_b = torch.tensor([0.25, 0.25, 0.25, 0.25]).log()  # ρ = 2, 1, ½, ½
    target = TopKTarget(
        ids_NK=torch.zeros(4, 1, dtype=torch.int32), log_probs_NK=torch.zeros(4, 1), log_tail_N=None, vocab_size=4,
        realised_logprob_N=torch.tensor([-1.0, -2.0, -float("inf"), -40.0]),
    )  # fmt: skip
    given, sides = settings(clip=0.5), Sides(behaviour=Behaviour(log_prob_N=log_b))
    rows = log_q.expand(4, 4).clone().requires_grad_()
    loss = token_losses(rows, target, torch.arange(4), given, sides)
    found = columns(sides.tally.take())
    assert found["policy/effective_samples"] == pytest.approx(4.0**2 / (4 * (4 + 1 + 0.25 + 0.25)))
    assert (found["policy/clipped_share"], found["policy/floored_share"]) == (0.25, 0.5)
    assert float(loss[2].detach()) == pytest.approx(-0.5 * (-32 - float(log_q[2])), rel=1e-6)


def test_realised_log_probs_that_no_one_knows_are_refused() -> None:
    one = torch.ones(2)
    drawn = SampledTarget(
        ids_NK=torch.zeros(2, 1, dtype=torch.int32), weights_NK=one[:, None], counts_N=one.int(), tau_N=one,
        entropy_N=0 * one, vocab_size=4,
    )  # fmt: skip
    with pytest.raises(UndefinedLoss, match="not known of 2 of 2 rows"):
        realised_log_probs(drawn, torch.tensor([0, 1]))
    partly = replace(drawn, realised_logprob_N=torch.tensor([-1.0, float("nan")]))
    with pytest.raises(UndefinedLoss, match="not known of 1 of 2 rows"):
        realised_log_probs(partly, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "given", [{"estimator": "k3", "discount": 0.5}, {"estimator": "k3", "importance": "ppo"}, {"discount": 1.5}]
)
def test_combinations_without_a_meaning_are_refused(given: Any) -> None:
    with pytest.raises(UndefinedLoss):
        PolicyGradient(**given)
