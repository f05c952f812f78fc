"""The fused head: the same numbers as the plain one, without its memory."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from thack.config import LossSettings
from thack.config.specs import loss_terms
from thack.errors import UndefinedLoss
from thack.losses import cross_entropy, forward_kl, reverse_kl, token_losses
from thack.losses.fused import chunk_tokens, fused_divergence
from thack.losses.rows import replace_by_gradient
from thack.schema.targets import DivergenceKind
from thack.targets import ProjectedTeacher, Projection
from thack.targets.types import DenseTarget, SampledTarget, TopKTarget
from thack.targets.vocabulary import log_probs

N, H, V = 23, 8, 41


class LargestAllocation(TorchDispatchMode):
    """The most elements of any tensor that an operation brings into being, views aside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's has no types
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
    live = ProjectedTeacher(hidden_NH=teacher_hidden, head=teacher_head, width=V)
    dense = DenseTarget(log_probs_NV=log_probs(teacher_hidden @ teacher_head.weight_VH.t(), V))
    head = Projection(weight_VH=weight)
    for settings in (LossSettings(), LossSettings(divergence="reverse_kl")):
        ours = fused_divergence(hidden, head, live, labels % V, settings, width=V, chunk=4)
        torch.testing.assert_close(ours, fused_divergence(hidden, head, dense, labels, settings))


def test_pitfall_24_nothing_as_large_as_the_logits_is_ever_allocated() -> None:
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
        target = teacher.to_dense()
        token_losses(hidden @ weight.t(), target, labels, settings).sum().backward()
    assert plain.elements >= tokens * vocab  # the probe does see what it looks for


def test_pitfall_24_weight_gradient_is_added_up_in_float32() -> None:
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


def top_k_of(teacher: Tensor, k: int, temperatures: tuple[float, ...] = (2.0,)) -> TopKTarget:
    ids = teacher.topk(k, dim=1).indices.sort(dim=1).values
    outside = teacher.scatter(1, ids, float("-inf"))
    return TopKTarget(
        ids_NK=ids.int(),
        log_probs_NK=teacher.gather(1, ids).float(),
        log_tail_N=outside.logsumexp(1).float(),
        vocab_size=teacher.shape[1],
        log_tail_at={t: (outside / t).logsumexp(1).float() for t in temperatures},
    )


def sampled_of(teacher: Tensor, k: int) -> SampledTarget:
    """Rows with one entry less than the next: what is not counted repeats the last id with weight 0."""
    top = top_k_of(teacher, k)
    counts = k - torch.arange(len(teacher)) % 3
    place = torch.minimum(torch.arange(k)[None, :], counts[:, None] - 1)
    weights = torch.where(torch.arange(k) < counts[:, None], top.log_probs_NK.exp(), 0.0)
    ones = torch.ones(len(teacher))
    return SampledTarget(
        ids_NK=top.ids_NK.gather(1, place), weights_NK=weights, counts_N=counts.int(),
        tau_N=ones / 100, entropy_N=ones, vocab_size=top.vocab_size,
    )  # fmt: skip


SUMS = {
    "forward_kl": LossSettings(),
    "reverse_kl": LossSettings(divergence="reverse_kl", temperature=2.0, ce_weight=0.5),
    "sum": LossSettings(divergence="jsd", beta=0.3, weight=0.5, add=("total_variation:0.2", "skewed_kl:2")),
    "cross-entropy alone": LossSettings(weight=0.0, ce_weight=2.0),
}


@pytest.mark.parametrize("settings", SUMS.values(), ids=list(SUMS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # by the Rust kernel, by sweeps in torch
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_sparse_targets_equal_the_plain_head(settings: LossSettings, dtype: torch.dtype, softcap: float | None) -> None:
    hidden, weight, bias, teacher, labels = (x.to(dtype) if x.is_floating_point() else x for x in parts())
    targets: list[TopKTarget | SampledTarget] = [top_k_of(teacher, 6)]
    if settings == LossSettings():
        targets.append(sampled_of(teacher, 6))
    for target in targets:
        grads = []
        for fused in (True, False):
            leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
            head = Projection(weight_VH=leaves[1], bias_V=leaves[2], scale=0.7, softcap=softcap)
            if fused:
                loss = fused_divergence(leaves[0], head, target, labels, settings, chunk=7)
            else:
                logits = head.shape(nn.functional.linear(*leaves)).float()
                loss = token_losses(logits, target, labels, settings).sum()
            loss.backward()
            grads.append([loss.detach().double(), *(leaf.grad.double() for leaf in leaves if leaf.grad is not None)])
        for ours, plain in zip(*grads, strict=True):
            torch.testing.assert_close(ours, plain, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation", "sampled"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sweeps_in_torch_equal_the_rust_kernel(name: DivergenceKind | Literal["sampled"], temperature: float) -> None:
    """The GPU's way, on float64 rows, beside the CPU's on float32: loss and gradient."""
    if name == "sampled" and temperature != 1:
        return
    generator = torch.Generator().manual_seed(5)
    logits, teacher = (torch.randn(9, 50, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    teacher = torch.log_softmax(teacher, 1)
    target = sampled_of(teacher, 6) if name == "sampled" else top_k_of(teacher, 6)
    kind: DivergenceKind = "forward_kl" if name == "sampled" else name
    settings = LossSettings(divergence=kind, beta=0.3, skew=0.2, temperature=temperature)
    wide, narrow = logits.clone(), logits.float()
    labels = torch.zeros(9, dtype=torch.int64)
    one, other = (replace_by_gradient(rows, target, labels, loss_terms(settings)) for rows in (wide, narrow))
    torch.testing.assert_close(one.float(), other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wide.float(), narrow, rtol=1e-4, atol=1e-6)


def test_a_row_without_tail_or_with_all_mass_outside_has_a_finite_gradient() -> None:
    logits = torch.tensor([[0.0, -1e4, -1e4, -1e4, -1e4], [-1e4, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    target = top_k_of(torch.log_softmax(torch.zeros(2, 5, dtype=torch.float64), 1), 1)
    for rows in (logits.clone(), logits.float()):
        loss = replace_by_gradient(rows, target, torch.zeros(2, dtype=torch.int64), loss_terms(LossSettings()))
        assert torch.isfinite(loss).all() and torch.isfinite(rows).all()


def test_pitfall_24_sparse_targets_take_one_buffer_of_logits() -> None:
    tokens, hidden_size, vocab, chunk = 512, 16, 400, 32
    hidden, weight = torch.randn(tokens, hidden_size, requires_grad=True), torch.randn(vocab, hidden_size)
    target = top_k_of(torch.log_softmax(torch.randn(tokens, vocab), 1), 4)
    labels = torch.randint(vocab, (tokens,))
    with Allocations() as seen:
        fused_divergence(hidden, Projection(weight_VH=weight), target, labels, LossSettings(), chunk=chunk).backward()
    assert sum(size >= chunk * vocab for size in seen.sizes) == 1  # for sixteen chunks


class Allocations(LargestAllocation):
    """The sizes of all new storages, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self._known: set[int] = set()
        self._kept: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in torch.utils._pytree.tree_leaves((args, kwargs)) if _is(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in filter(_is, torch.utils._pytree.tree_leaves(result)):
            place = tensor.untyped_storage().data_ptr()
            if place not in given | self._known:
                self._kept.append(tensor.detach())  # or the next allocation would get the same place
                self._known.add(place)
                self.sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def _is(value: object) -> bool:
    return isinstance(value, Tensor)


def test_a_weighted_sum_is_the_sum_and_a_bad_term_is_named() -> None:
    hidden, weight, _, teacher, labels = parts()
    target, logits = DenseTarget(log_probs_NV=teacher), hidden @ weight.t()
    found = token_losses(logits, target, labels, LossSettings(weight=0.5, add=("reverse_kl:2",), ce_weight=0.25))
    expected = 0.5 * forward_kl(logits, target) + 2 * reverse_kl(logits, target) + 0.25 * cross_entropy(logits, labels)
    torch.testing.assert_close(found, expected)
    for bad in ("reverse_kl", "revers_kl:1", "reverse_kl:-1", "reverse_kl:nan"):
        with pytest.raises(UndefinedLoss, match="is not a divergence and its weight"):
            token_losses(logits, target, labels, LossSettings(add=(bad,)))
    with pytest.raises(UndefinedLoss, match="no term of weight above 0"):
        token_losses(logits, target, labels, LossSettings(weight=0.0))
    with pytest.raises(UndefinedLoss, match="reverse_kl is not defined on sampled"):
        token_losses(logits.float(), sampled_of(teacher, 4), labels, LossSettings(add=("reverse_kl:1",)))


@pytest.mark.parametrize("nats", [2e-2, 2e-3, 2e-4])
def test_sixteen_bit_hidden_states_keep_the_gradient_near_convergence(nats: float) -> None:
    """Logits of 16 bits would round the difference of student and teacher away: 17 to 57 % of the gradient."""
    generator = torch.Generator().manual_seed(0)
    tokens, hidden_size, vocab = 48, 128, 2000
    hidden = torch.randn(tokens, hidden_size, generator=generator)
    weight = torch.randn(vocab, hidden_size, generator=generator) * 0.2
    teacher = hidden + (0.27 * nats) ** 0.5 * torch.randn(tokens, hidden_size, generator=generator) * 1.2
    labels, settings = torch.zeros(tokens, dtype=torch.int64), LossSettings()
    exact_x, exact_w = hidden.bfloat16().double().requires_grad_(), weight.double().requires_grad_()
    log_p = torch.log_softmax(teacher.bfloat16().double() @ exact_w.detach().t(), 1)
    log_q = torch.log_softmax(exact_x @ exact_w.t(), 1)
    expected = (log_p.exp() * (log_p - log_q)).sum()  # the definition, in float64
    expected.backward()
    assert 0.2 * nats < float(expected.detach()) / tokens < 5 * nats

    x, w = hidden.bfloat16().requires_grad_(), weight.clone().requires_grad_()
    target = ProjectedTeacher(hidden_NH=teacher.bfloat16(), head=Projection(weight_VH=weight))
    with LargestAllocation() as seen:
        loss = fused_divergence(x, Projection(weight_VH=w), target, labels, settings, chunk=16)
        loss.backward()
    torch.testing.assert_close(loss.detach().double(), expected.detach(), rtol=2e-3, atol=0)
    for found, right in ((x.grad, exact_x.grad), (w.grad, exact_w.grad)):
        assert found is not None and right is not None
        assert (found.double() - right).norm() <= 0.02 * right.norm()
    assert seen.elements <= max(2 * 16 * vocab, vocab * hidden_size)
