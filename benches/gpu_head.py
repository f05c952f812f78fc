"""Head and loss in bfloat16, from hidden states to the gradients of hidden states and head, against plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from eager import eager_divergence
from gpu_cost import compare, cost
from gpu_rows import CUDA, target_of
from gpu_shapes import Shapes
from harness import Measurement, Work
from thack.config import LossSettings
from thack.losses import sweeps
from thack.losses.fused import fused_divergence
from thack.targets import DenseTarget, ProjectedTeacher, Projection, Target

Loss = Callable[[Tensor, Tensor], Tensor]  # of hidden_NH and weight_VH


class Head:
    """The inputs of all measurements, and the work that each of them is."""

    def __init__(self, shapes: Shapes) -> None:
        torch.manual_seed(0)
        self.hidden_NH = torch.randn(shapes.rows, shapes.hidden, dtype=torch.bfloat16, device=CUDA)
        self.weight_VH = torch.randn(shapes.vocab, shapes.hidden, dtype=torch.bfloat16, device=CUDA) * 0.03
        self.labels_N = torch.randint(shapes.vocab, (shapes.rows,), device=CUDA)

    def backward(self, loss: Loss) -> Work:
        def work() -> None:
            x_NH, w_VH = (x.detach().requires_grad_() for x in (self.hidden_NH, self.weight_VH))
            loss(x_NH, w_VH).backward()

        return work

    def fused(self, target: Target | ProjectedTeacher | None, settings: LossSettings) -> Work:
        return self.backward(
            lambda x_NH, w_VH: fused_divergence(x_NH, Projection(weight_VH=w_VH), target, self.labels_N, settings)
        )

    def plain(self, loss: Callable[[Tensor], Tensor]) -> Work:
        """The whole logits by F.linear, and `loss` on them."""
        return self.backward(lambda x_NH, w_VH: loss(F.linear(x_NH, w_VH)).sum())

    def products(self, shapes: Shapes) -> Work:
        """The three matrix products that no way can do without."""
        grad_NV = torch.randn(shapes.rows, shapes.vocab, dtype=torch.bfloat16, device=CUDA)
        return lambda: (self.hidden_NH @ self.weight_VH.t(), grad_NV @ self.weight_VH, grad_NV.t() @ self.hidden_NH)


def measure(shapes: Shapes) -> Iterator[Measurement]:
    head = Head(shapes)
    floor_ms, floor_is = cost(head.products(shapes)).ms, "three products"
    yield from compare(
        "cross-entropy, fused",
        head.fused(None, LossSettings(weight=0.0, ce_weight=1.0)),
        head.plain(lambda z_NV: F.cross_entropy(z_NV.float(), head.labels_N, reduction="none")),
        "F.linear + F.cross_entropy",
        floor_ms=floor_ms,
        floor_is=floor_is,
    )
    target = target_of(shapes)
    for kind in ("forward_kl", "jsd"):
        yield from compare(
            f"{kind}, top-{shapes.kept}, fused",
            head.fused(target, LossSettings(divergence=kind)),
            head.plain(lambda z_NV, kind=kind: eager_divergence(z_NV, target, kind)),  # type: ignore[misc]
            "F.linear + torch eager, masked log-sum-exp",
            floor_ms=floor_ms,
            floor_is=floor_is,
        )
    yield from compare(
        f"forward_kl, top-{shapes.kept}, fused, Triton's sweeps",
        head.fused(target, LossSettings()),
        without_triton(head.fused(target, LossSettings())),
        "the same with torch's sweeps",
    )
    yield from dense(head, shapes, floor_ms, floor_is)


def dense(head: Head, shapes: Shapes, floor_ms: float, floor_is: str) -> Iterator[Measurement]:
    """A whole distribution per token: given, or as a teacher's hidden states and head."""
    teacher_NH = torch.randn_like(head.hidden_NH)
    teacher_VH = torch.randn_like(head.weight_VH) * 0.03
    live = ProjectedTeacher(hidden_NH=teacher_NH, head=Projection(weight_VH=teacher_VH))

    def teacher_log_probs() -> Tensor:
        with torch.no_grad():
            return torch.log_softmax(F.linear(teacher_NH, teacher_VH).float(), 1)

    def kl(z_NV: Tensor, log_p_NV: Tensor) -> Tensor:
        return F.kl_div(torch.log_softmax(z_NV.float(), 1), log_p_NV, log_target=True, reduction="none")

    yield from compare(
        "forward_kl, dense live teacher, fused",
        head.fused(live, LossSettings()),
        head.plain(lambda z_NV: kl(z_NV, teacher_log_probs())),
        "F.linear twice + log_softmax twice + F.kl_div",
        floor_ms=floor_ms * 4 / 3,
        floor_is="four products",
    )
    given = DenseTarget(log_probs_NV=teacher_log_probs())
    yield from compare(
        "forward_kl, dense target, fused",
        head.fused(given, LossSettings()),
        head.plain(lambda z_NV: kl(z_NV, given.log_probs_NV)),
        "F.linear + log_softmax + F.kl_div",
        floor_ms=floor_ms,
        floor_is=floor_is,
    )


def without_triton(work: Work) -> Work:
    def by_torch() -> None:
        with mock.patch.object(sweeps, "_by_triton", lambda logits_CV: False):
            work()

    return by_torch
