"""Losses and gradients on the device against their definitions in float64 on the CPU."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from thack.config import LossSettings
from thack.config.specs import loss_terms
from thack.errors import UndefinedLoss
from thack.losses import sweeps, token_losses
from thack.losses.fused import fused_divergence
from thack.losses.rows import replace_by_gradient
from thack.schema.targets import DIVERGENCES
from thack.targets import DenseTarget, ProjectedTeacher, Projection, SampledTarget, Target, TopKTarget

from .host import HostCopies

# Of another package of tests, which pytest imports under no name that is known here.
DEFINITIONS = runpy.run_path(str(Path(__file__).parents[1] / "losses" / "reference.py"))

N, H, V, K = 19, 24, 4500, 8  # more than one block of a sweep
DTYPES = [torch.float32, torch.bfloat16]
T = 2.0


@pytest.fixture(params=["triton", "torch"])
def swept_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who sweeps the rows of a sparse loss."""
    if request.param == "triton":
        pytest.importorskip("triton", reason="triton is not installed (it comes with torch on Linux)")
        monkeypatch.setattr(sweeps, "tail_sums_by_torch", None)
    else:
        monkeypatch.setattr(sweeps, "_by_triton", lambda logits_CV: False)
    return str(request.param)


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


TEACHER_NV = normal(N, V, seed=1, scale=3)
IDS_NK = TEACHER_NV.topk(K, dim=1).indices.sort(dim=1).values
LABELS_N = torch.randint(V, (N,), generator=torch.Generator().manual_seed(2))


def dense() -> DenseTarget:
    return DenseTarget(log_probs_NV=torch.log_softmax(TEACHER_NV.double(), 1).float())


def top_k() -> TopKTarget:
    log_p_NV = torch.log_softmax(TEACHER_NV.double(), 1)
    others_NV = log_p_NV.scatter(1, IDS_NK, float("-inf"))
    return TopKTarget(
        ids_NK=IDS_NK.int(),
        log_probs_NK=log_p_NV.gather(1, IDS_NK).float(),
        log_tail_N=others_NV.logsumexp(1).float(),
        vocab_size=V,
        log_tail_at={T: (others_NV / T).logsumexp(1).float()},
    )


def sampled() -> SampledTarget:
    """Rows with up to three entries that count nothing and repeat the last id that does."""
    counts_N = K - torch.arange(N) % 4
    counts_NK = torch.arange(K) < counts_N[:, None]
    last_N1 = IDS_NK.gather(1, counts_N[:, None] - 1)
    weights_NK = normal(N, K, seed=3).abs() * counts_NK
    return SampledTarget(
        ids_NK=torch.where(counts_NK, IDS_NK, last_N1).int(),
        weights_NK=weights_NK / weights_NK.sum(1, keepdim=True),
        counts_N=counts_N.int(),
        tau_N=torch.full((N,), 0.1),
        entropy_N=normal(N, seed=4).abs(),
        vocab_size=V,
    )


def defined(target: Target, settings: LossSettings) -> Callable[[Tensor], Tensor]:
    """logits_NV (float64) → loss_N, the label's cross-entropy included."""
    kw: dict[str, Any] = {"temperature": settings.temperature}
    kw |= {"beta": settings.beta} if settings.divergence == "jsd" else {}
    kw |= {"skew": settings.skew} if settings.divergence == "skewed_kl" else {}

    def loss(logits_NV: Tensor) -> Tensor:
        log_q_NV = torch.log_softmax(logits_NV, 1)
        if isinstance(target, SampledTarget):
            chosen_NK = log_q_NV.gather(1, target.ids_NK.long())
            found_N = -(target.weights_NK.double() * chosen_NK).sum(1) - target.entropy_N
        elif isinstance(target, TopKTarget):
            found_N = DEFINITIONS["bucketed"](settings.divergence, logits_NV, TEACHER_NV, IDS_NK, **kw)
        else:
            found_N = DEFINITIONS["dense"](settings.divergence, logits_NV, TEACHER_NV, **kw)
        return settings.weight * found_N - settings.ce_weight * log_q_NV.gather(1, LABELS_N[:, None])[:, 0]

    return loss


def cases() -> list[Any]:
    """Every divergence on every kind of target that defines it; temperature and a weighted label on some."""
    found = []
    for make in (top_k, dense):
        for kind in DIVERGENCES:
            found.append(pytest.param(make, LossSettings(divergence=kind), id=f"{make.__name__}-{kind}"))
        settings = LossSettings(divergence="jsd", beta=0.3, temperature=T, ce_weight=0.5, weight=0.7)
        found.append(pytest.param(make, settings, id=f"{make.__name__}-jsd-T-label"))
    found.append(pytest.param(sampled, LossSettings(), id="sampled-forward_kl"))
    return [*found, pytest.param(sampled, LossSettings(ce_weight=0.5), id="sampled-forward_kl-label")]


SWEPT = [
    pytest.param(who, *case.values, id=f"{who}-{case.id}")
    for who in ("triton", "torch")
    for case in cases()
    if who == "torch" or case.values[0] is not dense  # dense targets are not swept
]


def agree(ours: Tensor, exact: Tensor, dtype: torch.dtype, tolerance: float = 1e-5) -> None:
    """‖ours − exact‖ relative to ‖exact‖: within `tolerance`, or what rounding to bfloat16 makes of it."""
    assert ours.device.type == "cuda"
    error = (ours.cpu().double() - exact).norm() / exact.norm()
    assert error < (tolerance if dtype == torch.float32 else 5e-3), f"{error:.1e}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("swept_by", "make", "settings"), SWEPT, indirect=["swept_by"])
def test_rows_in_place(
    cuda: torch.device, swept_by: str, make: Callable[[], Target], settings: LossSettings, dtype: torch.dtype
) -> None:
    logits_NV = normal(N, V, seed=0, scale=3).to(dtype)
    leaf_NV = logits_NV.double().requires_grad_()
    expected_N = defined(make(), settings)(leaf_NV)
    expected_N.sum().backward()
    rows_NV, target, labels_N = logits_NV.to(cuda), make().to(cuda), LABELS_N.to(cuda)
    with HostCopies(N * V):
        loss_N = replace_by_gradient(rows_NV, target, labels_N, loss_terms(settings))
    agree(loss_N, expected_N.detach(), torch.float32)
    assert leaf_NV.grad is not None and rows_NV.dtype == dtype
    agree(rows_NV, leaf_NV.grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("make", "settings"), cases())
def test_through_autograd(
    cuda: torch.device, make: Callable[[], Target], settings: LossSettings, dtype: torch.dtype
) -> None:
    logits_NV = normal(N, V, seed=0, scale=3).to(dtype)
    exact_NV = logits_NV.double().requires_grad_()
    expected_N = defined(make(), settings)(exact_NV)
    expected_N.sum().backward()
    leaf_NV = logits_NV.to(cuda).requires_grad_()
    with HostCopies(N * V):
        loss_N = token_losses(leaf_NV, make().to(cuda), LABELS_N.to(cuda), settings)
        loss_N.sum().backward()
    agree(loss_N.detach(), expected_N.detach(), torch.float32)
    assert leaf_NV.grad is not None and exact_NV.grad is not None
    agree(leaf_NV.grad, exact_NV.grad, dtype, tolerance=2e-4)  # of differences that torch's autograd forms


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("swept_by", "make", "settings"), SWEPT, indirect=["swept_by"])
def test_fused_with_the_head(
    cuda: torch.device, swept_by: str, make: Callable[[], Target], settings: LossSettings, dtype: torch.dtype
) -> None:
    """Two chunks and a rest, rows weighted, logits scaled and capped; the teacher also before its head."""
    hidden_NH, weight_VH = normal(N, H, seed=5).to(dtype), normal(V, H, seed=6, scale=0.3)
    row_weights_N = torch.linspace(0, 2, N)
    exact = [hidden_NH.double().requires_grad_(), weight_VH.to(dtype).double().requires_grad_()]
    made_NV = Projection(weight_VH=exact[1], scale=0.7, softcap=20.0).shape(exact[0] @ exact[1].t())
    expected = (defined(make(), settings)(made_NV) * row_weights_N).sum()
    expected.backward()
    leaves = [hidden_NH.to(cuda).requires_grad_(), weight_VH.to(cuda).requires_grad_()]
    head = Projection(weight_VH=leaves[1], scale=0.7, softcap=20.0)
    with HostCopies(8 * V):
        loss = fused_divergence(
            leaves[0],
            head,
            make().to(cuda),
            LABELS_N.to(cuda),
            settings,
            weights_N=row_weights_N.to(cuda),
            chunk=8,
        )
        (loss * 0.5).backward()
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2  # in bfloat16 the logits are rounded, too
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=tolerance)
    for ours, leaf in zip(leaves, exact, strict=True):
        assert ours.grad is not None and leaf.grad is not None and ours.grad.dtype == ours.dtype
        error = (2 * ours.grad.cpu().double() - leaf.grad).norm() / leaf.grad.norm()
        assert error < tolerance, f"{error:.1e}"


def test_a_teacher_before_its_head_equals_its_dense_target(cuda: torch.device) -> None:
    hidden_NH, weight_VH = normal(N, H, seed=5).to(cuda), normal(V, H, seed=6, scale=0.3).to(cuda)
    teacher_head = Projection(weight_VH=normal(V + 3, 16, seed=8).to(cuda))
    teacher = ProjectedTeacher(hidden_NH=normal(N, 16, seed=7).to(cuda), head=teacher_head, width=V)
    head = Projection(weight_VH=weight_VH)
    with HostCopies(8 * V):
        whole, labels_N = teacher.to_dense(), LABELS_N.to(cuda)
        losses = [
            fused_divergence(hidden_NH, head, target, labels_N, LossSettings(), width=V, chunk=8)
            for target in (teacher, whole)
        ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)


def test_an_infinite_reverse_kl_is_refused(cuda: torch.device) -> None:
    target = top_k()
    without_tail = TopKTarget(
        ids_NK=target.ids_NK,
        log_probs_NK=target.log_probs_NK.log_softmax(1),
        log_tail_N=torch.full((N,), float("-inf")),
        vocab_size=V,
    ).to(cuda)
    logits_NV, labels_N = normal(N, V, seed=0).to(cuda), LABELS_N.to(cuda)
    with pytest.raises(UndefinedLoss, match="reverse KL is infinite"):
        token_losses(logits_NV, without_tail, labels_N, LossSettings(divergence="reverse_kl"))
