"""The fused head: the same numbers as the plain one, without its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from thack.config.settings import LossSettings
from thack.losses import token_losses
from thack.losses.fused import ProjectedTeacher, Projection, chunk_tokens, fused_divergence
from thack.losses.vocabulary import log_probs
from thack.targets import DenseTarget

N, H, V = 23, 8, 41


class LargestAllocation(TorchDispatchMode):
    """The most elements of any tensor that an operation brings into being, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor._base is None:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def parts(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, H, generator=generator, dtype=dtype)
    weight = torch.randn(V, H, generator=generator, dtype=dtype) / 2
    bias = torch.randn(V, generator=generator, dtype=dtype)
    teacher = torch.log_softmax(torch.randn(N, V, generator=generator, dtype=dtype) * 2, 1)
    return hidden, weight, bias, teacher, torch.randint(V, (N,), generator=generator)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "total_variation"])
@pytest.mark.parametrize("chunk", [1, 7, N, 100])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_equals_the_plain_head(divergence: Any, chunk: int, softcap: float | None) -> None:
    settings = LossSettings(divergence=divergence, temperature=1.5, ce_weight=0.3)
    hidden, weight, bias, teacher, labels = parts()
    weights = torch.linspace(0, 2, N, dtype=torch.float64)
    grads = []
    for fused in (True, False):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        head = Projection(weight_VH=leaves[1], bias_V=leaves[2], scale=0.7, softcap=softcap)
        target = DenseTarget(log_probs_NV=teacher)
        if fused:
            loss = fused_divergence(leaves[0], head, target, labels, settings, weights_N=weights, chunk=chunk)
        else:
            logits = head.shape(nn.functional.linear(*leaves))
            loss = (token_losses(logits, target, labels, settings) * weights).sum()
        (loss * 0.5).backward()
        grads.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)


def test_frozen_head_and_frozen_body() -> None:
    hidden, weight, _, teacher, labels = parts()
    for train_body, train_head in [(True, False), (False, True)]:
        x, w = hidden.clone().requires_grad_(train_body), weight.clone().requires_grad_(train_head)
        target = DenseTarget(log_probs_NV=teacher)
        fused_divergence(x, Projection(weight_VH=w), target, labels, LossSettings()).backward()
        assert (x.grad is not None, w.grad is not None) == (train_body, train_head)


def test_a_projected_teacher_of_another_width_equals_its_dense_target() -> None:
    hidden, weight, _, _, labels = parts()
    teacher_hidden = torch.randn(N, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    teacher_head = Projection(weight_VH=torch.randn(V + 3, 5, dtype=torch.float64))
    live = ProjectedTeacher(hidden_NH=teacher_hidden, head=teacher_head)
    dense = DenseTarget(log_probs_NV=log_probs(teacher_hidden @ teacher_head.weight_VH.t(), V))
    head = Projection(weight_VH=weight)
    for settings in (LossSettings(), LossSettings(divergence="reverse_kl")):
        ours = fused_divergence(hidden, head, live, labels % V, settings, width=V, chunk=4)
        torch.testing.assert_close(ours, fused_divergence(hidden, head, dense, labels, settings))


def test_trap_24_nothing_as_large_as_the_logits_is_ever_allocated() -> None:
    tokens, hidden_size, vocab, chunk = 512, 16, 300, 32
    hidden = torch.randn(tokens, hidden_size, requires_grad=True)
    weight = torch.randn(vocab, hidden_size, requires_grad=True)
    teacher = ProjectedTeacher(hidden_NH=torch.randn(tokens, 12), head=Projection(weight_VH=torch.randn(vocab, 12)))
    labels = torch.randint(vocab, (tokens,))
    settings = LossSettings(ce_weight=0.5)
    with LargestAllocation() as seen:
        fused_divergence(hidden, Projection(weight_VH=weight), teacher, labels, settings, chunk=chunk).backward()
    assert seen.elements <= max(2 * chunk * vocab, tokens * hidden_size, vocab * hidden_size)
    with LargestAllocation() as plain:
        target = teacher.rows(slice(None), vocab)
        token_losses(hidden @ weight.t(), target, labels, settings).sum().backward()
    assert plain.elements >= tokens * vocab  # the probe does see what it looks for


def test_trap_24_weight_gradient_is_added_up_in_float32() -> None:
    torch.manual_seed(0)
    tokens, hidden_size, vocab = 2048, 16, 64
    hidden, weight = torch.randn(tokens, hidden_size) + 1, torch.randn(vocab, hidden_size) * 0.1
    teacher = torch.log_softmax(torch.randn(tokens, vocab), 1)
    labels, target = torch.zeros(tokens, dtype=torch.int64), DenseTarget(log_probs_NV=teacher)
    exact = weight.double().requires_grad_()
    fused_divergence(hidden.bfloat16().double(), Projection(weight_VH=exact), target, labels, LossSettings()).backward()
    half = weight.clone().requires_grad_()  # float32 master weights under bfloat16 hidden states
    fused_divergence(hidden.bfloat16(), Projection(weight_VH=half), target, labels, LossSettings(), chunk=16).backward()
    assert half.grad is not None and exact.grad is not None and half.grad.dtype is torch.float32
    error = (half.grad - exact.grad).norm() / exact.grad.norm()
    assert error < 0.01


def test_chunks_are_never_narrower_than_the_hidden_width() -> None:
    assert chunk_tokens(4096, 150_000) == 4096
    assert chunk_tokens(96, 1024) == 16384
