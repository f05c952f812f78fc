"""Forward KL through a frozen head against the whole distributions, in float64; records and their rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thack import _native
from thack.cache.format.layout import RecordLayout
from thack.cache.format.records import decode, encode
from thack.cache.reference import decode_reference
from thack.config import LossSettings, PolicySettings
from thack.errors import MismatchError, UndefinedLoss
from thack.losses import token_losses
from thack.losses.fused import fused_divergence
from thack.losses.rows import sides_of
from thack.schema.defined import check_defined
from thack.schema.targets import Divergence, TargetSpec
from thack.targets.frozen_head import FrozenHead
from thack.targets.join import concatenate, mix
from thack.targets.projected import Projection
from thack.targets.select import select
from thack.targets.types import DenseTarget, FrozenHeadTarget

N, V, H = 12, 50, 8


def world(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head, the teacher's logits, labels."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(N, H, generator=generator), torch.randn(V, H, generator=generator)
    teacher, labels = 3 * torch.randn(N, V, generator=generator), torch.randint(0, V, (N,), generator=generator)
    return hidden.to(dtype), weight.to(dtype), teacher.to(dtype), labels


def of(weight: Tensor, teacher: Tensor) -> FrozenHeadTarget:
    return FrozenHead(weight_VH=weight, fingerprint="").project(torch.log_softmax(teacher, 1))


LOSSES = {
    "alone": LossSettings(),
    "weighted": LossSettings(weight=0.7, ce_weight=0.4),
    "twice": LossSettings(add=("forward_kl:0.5",)),
    "entropy": LossSettings(mix="entropy", ce_weight=0.4),
}


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("name", list(LOSSES))
def test_value_and_gradient_are_those_of_the_whole_distribution(name: str, scale: float) -> None:
    """KL(p‖q) = Σ p (log p − log q) and its derivative by the hidden states, through autograd."""
    hidden, weight, teacher, labels = world()
    settings, target = LOSSES[name], of(weight, teacher)
    weights_N = torch.linspace(0.5, 2, N, dtype=torch.float64)
    x = hidden.clone().requires_grad_()
    head = Projection(weight_VH=weight, scale=scale)
    sides = sides_of(settings)
    total = fused_divergence(x, head, target, labels, settings, weights_N=weights_N, sides=sides, chunk=5)
    total.backward()  # type: ignore[no-untyped-call,unused-ignore]

    free = hidden.clone().requires_grad_()
    log_p, log_q = torch.log_softmax(teacher, 1), torch.log_softmax(scale * free @ weight.t(), 1)
    kl_N, ce_N = (log_p.exp() * (log_p - log_q)).sum(1), -log_q.gather(1, labels[:, None])[:, 0]
    entropy_N = -(log_p.exp() * log_p).sum(1)
    hard_N = 1 - entropy_N / np.log(V) if settings.mix == "entropy" else None
    soft_weight = settings.weight + (0.5 if settings.add else 0)
    loss_N = soft_weight * kl_N * (1 if hard_N is None else 1 - hard_N)
    loss_N = loss_N + settings.ce_weight * ce_N * (1 if hard_N is None else hard_N)
    wanted = (weights_N * loss_N).sum()
    wanted.backward()  # type: ignore[no-untyped-call,unused-ignore]
    torch.testing.assert_close(total.detach(), wanted.detach(), rtol=1e-10, atol=1e-10)
    assert x.grad is not None and free.grad is not None
    torch.testing.assert_close(x.grad, free.grad, rtol=1e-9, atol=1e-11)
    if hard_N is not None:
        assert sides.tally.take()["mixed"] == N, "each token is counted once"


def test_it_is_0_with_gradient_0_where_student_and_teacher_agree() -> None:
    hidden, weight, _, labels = world()
    x = hidden.clone().requires_grad_()
    target = of(weight, hidden @ weight.t())
    total = fused_divergence(x, Projection(weight_VH=weight), target, labels, LossSettings())
    total.backward()  # type: ignore[no-untyped-call,unused-ignore]
    assert x.grad is not None
    assert float(total.detach().abs()) < 1e-10 and float(x.grad.abs().max()) < 1e-12


def test_float32_is_as_near_as_the_dense_loss() -> None:
    hidden, weight, teacher, labels = world(torch.float32)
    exact = [value.double() for value in (hidden, weight, teacher)]
    log_p, log_q = torch.log_softmax(exact[2], 1), torch.log_softmax(exact[0] @ exact[1].t(), 1)
    wanted = float((log_p.exp() * (log_p - log_q)).sum())
    found = fused_divergence(hidden, Projection(weight_VH=weight), of(weight, teacher), labels, LossSettings())
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("bits", [16, 8])
def test_records_round_within_their_bounds_and_so_does_the_gradient(bits: int) -> None:
    """‖δ‖ of the record is the error of the gradient, to the number; and the reference reads the same."""
    hidden, weight, teacher, labels = world(torch.float32)
    layout = RecordLayout(spec=TargetSpec(kind="projected", k=H, value_bits=bits), vocab_size=V)
    target = of(weight, teacher)
    records = encode(target, layout, seed=0, keys_N4=torch.zeros(N, 4, dtype=torch.int64))
    assert layout.stride == 8 + H * bits // 8 and len(records) == N * layout.stride
    stored = decode(memoryview(records), layout)
    assert isinstance(stored, FrozenHeadTarget) and torch.equal(stored.entropy_N, target.entropy_N)
    scale = target.mean_NH.abs().amax(1, keepdim=True)
    relative, least = (2**-11, 2**-25) if bits == 16 else (2**-4, 2**-19)
    error = (stored.mean_NH - target.mean_NH).abs()
    assert bool((error <= 1.0001 * (relative * target.mean_NH.abs() + least * scale)).all())
    assert encode(stored, layout, seed=0, keys_N4=torch.zeros(N, 4, dtype=torch.int64)) == records

    gradients = []
    for each in (target, stored):
        x = hidden.clone().requires_grad_()
        total = fused_divergence(x, Projection(weight_VH=weight), each, labels, LossSettings())
        total.backward()  # type: ignore[no-untyped-call,unused-ignore]
        assert x.grad is not None
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0] - gradients[1], stored.mean_NH - target.mean_NH, rtol=0, atol=1e-5)

    found = decode_reference(np.frombuffer(records, np.uint8).reshape(N, -1), layout.metadata())
    np.testing.assert_array_equal(found["mean"], stored.mean_NH.numpy())
    np.testing.assert_array_equal(found["entropy"], stored.entropy_N.numpy())


def test_several_teachers_mix_by_their_vectors() -> None:
    _, weight, teacher, _ = world()
    one, other = of(weight, teacher), of(weight, teacher.flip(1))
    shares = torch.tensor([[0.25, 0.75]]).expand(N, 2)
    mixed = mix([one, other], shares)
    p_NV = 0.25 * teacher.softmax(1) + 0.75 * teacher.flip(1).softmax(1)
    assert isinstance(mixed, FrozenHeadTarget)
    torch.testing.assert_close(mixed.mean_NH, p_NV @ weight)
    both = concatenate([one, other])
    assert len(both) == 2 * N and isinstance(both, FrozenHeadTarget)
    torch.testing.assert_close(both.mean_NH[N:], other.mean_NH)


def test_select_projects_the_rows_that_are_compared() -> None:
    _, weight, teacher, labels = world(torch.float32)
    head = FrozenHead(weight_VH=weight[:40], fingerprint="")
    spec = TargetSpec(kind="projected", k=H, value_bits=16)
    found = select(teacher, spec, width=40, labels_N=labels.clamp_max(39), head=head)
    assert isinstance(found, FrozenHeadTarget) and found.vocab_size == 40
    log_p = torch.log_softmax(teacher[:, :40], 1)
    torch.testing.assert_close(found.mean_NH, log_p.exp() @ weight[:40])
    assert found.realised_logprob_N is not None
    torch.testing.assert_close(found.realised_logprob_N, log_p.gather(1, labels.clamp_max(39)[:, None])[:, 0])


REFUSED: dict[str, tuple[Any, Any]] = {
    "trains": (dict(trains=True), "needs a frozen head"),
    "bias": (dict(bias_V=torch.zeros(V, dtype=torch.float64)), "needs a frozen head"),
    "bound": (dict(softcap=30.0), "needs a frozen head"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_heads_that_it_does_not_hold_for_are_refused(name: str) -> None:
    changes, message = REFUSED[name]
    hidden, weight, teacher, labels = world()
    trains = changes.pop("trains", False) if name == "trains" else False
    head = Projection(weight_VH=weight.clone().requires_grad_(trains), **{k: v for k, v in changes.items()})
    with pytest.raises(UndefinedLoss, match=message):
        fused_divergence(hidden, head, of(weight, teacher), labels, LossSettings())


def test_other_losses_and_other_ids_are_refused() -> None:
    hidden, weight, teacher, labels = world()
    spec, target = TargetSpec(kind="projected", k=H, value_bits=16), of(weight, teacher)
    for divergence in (Divergence(kind="reverse_kl"), Divergence(temperature=2.0)):
        with pytest.raises(UndefinedLoss, match="not defined on projected targets"):
            check_defined(spec, divergence)
    with pytest.raises(UndefinedLoss, match="hidden states, not with logits"):
        token_losses(hidden @ weight.t(), target, labels, LossSettings())
    with pytest.raises(MismatchError, match="different shapes"):
        fused_divergence(hidden, Projection(weight_VH=weight), target, labels, LossSettings(), width=V - 1)
    for text in ("jsd", "reverse_kl"):
        with pytest.raises(UndefinedLoss, match="not defined on projected targets"):
            settings = LossSettings(divergence=text)
            fused_divergence(hidden, Projection(weight_VH=weight), target, labels, settings)


def test_a_policy_gradient_needs_its_realised_log_probabilities_alone() -> None:
    hidden, weight, teacher, labels = world(torch.float32)
    spec = TargetSpec(kind="projected", k=H, value_bits=16)
    head = FrozenHead(weight_VH=weight, fingerprint="")
    target = select(teacher, spec, width=V, labels_N=labels, head=head)
    dense = DenseTarget(log_probs_NV=torch.log_softmax(teacher, 1))
    settings = LossSettings(weight=0, policy=PolicySettings(weight=1))
    found = [
        float(fused_divergence(hidden, Projection(weight_VH=weight), each, labels, settings))
        for each in (target, dense)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_layouts_that_no_record_has_are_refused(tmp_path: Path) -> None:
    for bad in ({"value_bits": "12"}, {"k": "0"}, {"value_bits": ""}):
        with pytest.raises(Exception, match="is not accepted"):
            _native.RecordLayout({"kind": "projected", "vocab_size": "50", "k": "8", "value_bits": "16"} | bad)
