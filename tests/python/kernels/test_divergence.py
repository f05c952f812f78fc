"""The sparse divergences against float64 autograd of their definition, and their refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thack import kernels
from thack.errors import MismatchError, ModelError, UndefinedLoss, UsageError
from thack.kernels import SparseRows
from thack.schema.targets import Divergence, DivergenceKind

KINDS: list[DivergenceKind] = ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation"]


def target_of(z: torch.Tensor, k: int, temperature: float = 1.0) -> SparseRows:
    """The teacher's k most likely ids and its tail, at T."""
    top = kernels.topk_logsumexp(z / temperature, k)
    return SparseRows(top.ids_NK, top.log_probs_NK, top.log_tail_N, z.shape[1])


def drawn_from(z: torch.Tensor, k: int, keys: torch.Tensor) -> SparseRows:
    found = kernels.threshold_sample(z, k, seed=1, keys_N4=keys)
    return SparseRows(found.ids_NK, found.weights_NK, found.entropy_N, z.shape[1], sampled=True)


def of(kind: str, beta: float = 0.5, temperature: float = 1.0) -> Divergence:
    return Divergence.parse(kind, parameters={"jsd": beta, "skewed_kl": 0.1}, temperature=temperature)


def definition(kind: str, p: torch.Tensor, q: torch.Tensor, beta: float, skew: float) -> torch.Tensor:
    """Per row, from K+1 probabilities in float64."""

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum(1)

    if kind == "forward_kl":
        return kl(p, q)
    if kind == "reverse_kl":
        return kl(q, p)
    if kind == "total_variation":
        return 0.5 * (p - q).abs().sum(1)
    if kind == "skewed_kl":
        return kl(p, skew * p + (1 - skew) * q)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def reference(
    kind: str, teacher: torch.Tensor, student: torch.Tensor, ids: torch.Tensor, temperature: float, beta: float
) -> torch.Tensor:
    def buckets(z: torch.Tensor) -> torch.Tensor:
        full = torch.softmax(z.double() / temperature, 1)
        kept = full.gather(1, ids.long())
        others = full.scatter(1, ids.long(), 0.0).sum(1, keepdim=True)
        return torch.cat([kept, others], 1)

    return temperature**2 * definition(kind, buckets(teacher), buckets(student), beta, 0.1)


@pytest.mark.parametrize("vocab", [1, 15, 128, 1000, 5003])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (8, 0), (1, 1000), (3, -5000), (1, 3e7)])
def test_dense_forward_kl_matches_float64(vocab: int, scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(40, vocab, generator=generator) * scale + offset
    log_p = (4 * torch.randn(40, vocab, generator=generator)).log_softmax(1) - 0.01
    log_p[:, vocab // 2 + 1 :: 3] = -math.inf  # no mass
    before = logits.clone()
    loss, grad = kernels.dense_forward_kl(logits, log_p)
    p, log_q = log_p.double().exp(), logits.double().log_softmax(1)
    expected = torch.where(p > 0, p * (log_p.double() - log_q), 0).sum(1)
    torch.testing.assert_close(loss.double(), expected, rtol=3e-6, atol=3e-6)
    torch.testing.assert_close(grad.double(), log_q.exp() * p.sum(1, keepdim=True) - p, rtol=0, atol=1e-6)
    assert torch.equal(logits, before)


def test_dense_forward_kl_of_other_shapes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"has shape \(2, 3\), not \(2, 4\)"):
        kernels.dense_forward_kl(torch.zeros(2, 4), torch.zeros(2, 3))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(41, 300), st.integers(0, 1000))
def test_value_and_gradient_match_float64(
    kind: DivergenceKind, temperature: float, k: int, vocab: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(3, vocab, generator=generator) * 3
    student = (torch.randn(3, vocab, generator=generator) * 2).requires_grad_()
    upstream = torch.rand(3, generator=generator)
    target = target_of(teacher, k, temperature)
    loss = kernels.sparse_divergence(student, target, of(kind, 0.3, temperature))
    (loss * upstream).sum().backward()
    double = student.detach().double().requires_grad_()
    expected = reference(kind, teacher, double, target.ids_NK, temperature, 0.3)
    (expected * upstream).sum().backward()
    assert student.grad is not None
    assert double.grad is not None
    torch.testing.assert_close(loss.double(), expected, atol=3e-6, rtol=3e-6)
    torch.testing.assert_close(student.grad.double(), double.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_at_equality_with_zero_gradient(kind: DivergenceKind) -> None:
    """Pitfalls 4 and 5, at T = 1 and T = 2."""
    z = torch.randn(4, 100, generator=torch.Generator().manual_seed(0)) * 3
    for temperature in (1.0, 2.0):
        student = z.clone().requires_grad_()
        loss = kernels.sparse_divergence(student, target_of(z, 8, temperature), of(kind, temperature=temperature))
        loss.sum().backward()
        assert student.grad is not None
        assert loss.abs().max() < 3e-6
        assert student.grad.abs().max() < (2e-6 if kind != "total_variation" else 1.0)


def test_an_extreme_tail_stays_finite() -> None:
    """A student tail of e^−60 and a teacher tail of e^−32."""
    student = torch.full((1, 50), -60.0)
    student[0, :2] = 0.0
    ids = torch.tensor([[0, 1]], dtype=torch.int32)
    target = SparseRows(ids, torch.full((1, 2), math.log(0.5)), torch.tensor([-32.0]), 50)
    for kind in KINDS:
        leaf = student.clone().requires_grad_()
        loss = kernels.sparse_divergence(leaf, target, of(kind))
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_sampled_targets_give_the_unbiased_kl() -> None:
    n, vocab = 4000, 60
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(vocab, generator=generator) * 2, torch.randn(vocab, generator=generator)
    keys = torch.zeros(n, 4, dtype=torch.int64)
    keys[:, 1] = torch.arange(n)
    logits = teacher.expand(n, vocab).contiguous()
    tau = kernels.threshold_sample(logits, 6, seed=1, keys_N4=keys).tau_N[0]
    rows = student.expand(n, vocab).contiguous().requires_grad_()
    loss = kernels.sparse_divergence(rows, drawn_from(logits, 6, keys))
    loss.sum().backward()
    p, q = torch.softmax(teacher.double(), 0), torch.softmax(student.double(), 0)
    exact = (p * (p.log() - q.log())).sum()
    assert abs(loss.double().mean() - exact) < 5 * loss.double().std() / n**0.5
    assert rows.grad is not None
    error = (p * tau.double() / n).sqrt()  # an id of weight τ is drawn with probability p/τ
    assert ((rows.grad.double().mean(0) - (q - p)).abs() <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("divergence", [Divergence(kind="reverse_kl"), Divergence(temperature=2.0)])
def test_what_sampled_rows_do_not_define_is_refused(divergence: Divergence) -> None:
    """It was computed as forward KL at temperature 1."""
    z = torch.zeros(1, 8)
    with pytest.raises(UsageError, match="sampled rows: they define forward KL at temperature 1 alone"):
        kernels.sparse_divergence(z, drawn_from(z, 4, torch.zeros(1, 4, dtype=torch.int64)), divergence)


def test_half_precision_logits() -> None:
    z = torch.randn(4, 90, generator=torch.Generator().manual_seed(0))
    student = torch.randn(4, 90, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    loss = kernels.sparse_divergence(student, target_of(z, 8))
    loss.sum().backward()
    expected = reference("forward_kl", z, student.detach().float(), target_of(z, 8).ids_NK, 1.0, 0.5)
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16


def test_logits_on_another_device_are_refused() -> None:
    elsewhere = torch.empty(2, 30, device="meta")
    with pytest.raises(UsageError, match="runs on the CPU"):
        kernels.sparse_divergence(elsewhere, target_of(torch.zeros(2, 30), 4))


def test_ids_beyond_the_vocabulary_and_nan_rows_are_named() -> None:
    """Pitfall 14: an id is checked before it is used."""
    z = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    target = target_of(z, 4)
    target.ids_NK[1, 3] = 30
    with pytest.raises(MismatchError, match="row 1"):
        kernels.sparse_divergence(z, target)
    bad = z.clone()
    bad[0, 7] = float("nan")
    with pytest.raises(ModelError, match="row 0"):
        kernels.sparse_divergence(bad, target_of(z, 4))


# -- in place: label, weights, padded columns ---------------------------------------------------------------


def random_case(seed: int, k: int, vocab: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student logits, teacher logits, labels, weights (one of them 0)."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(4, vocab, generator=generator) * 2
    teacher = torch.randn(4, vocab, generator=generator) * 3
    labels = torch.randint(vocab, (4,), generator=generator)
    labels[0], labels[1] = target_of(teacher, k).ids_NK[0, 0], -100  # one inside S, one without a label
    return student, teacher, labels, torch.tensor([0.5, 2.0, 0.0, 1.0])


def mixed_loss(
    kind: str,
    teacher: torch.Tensor,
    student: torch.Tensor,
    ids: torch.Tensor,
    temperature: float,
    labels: torch.Tensor,
    ce_weight: float,
) -> torch.Tensor:
    cross = torch.nn.functional.cross_entropy(student, labels, reduction="none")  # ignores −100
    return reference(kind, teacher, student, ids, temperature, 0.3) + ce_weight * cross


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.sampled_from([0, 1, 40, 260]), st.integers(0, 1000))
def test_in_place_gradient_matches_finite_differences(
    kind: DivergenceKind, temperature: float, k: int, others: int, seed: int
) -> None:
    """Against central differences in float64 of the definition, along random directions; label and weights in.

    Without others every id is kept, and what is left of the row is −inf.
    """
    vocab = k + others
    student, teacher, labels, weights = random_case(seed, k, vocab)
    target = target_of(teacher, k, temperature)
    buffer = torch.cat([student, torch.full((4, 3), 9.0)], 1)  # three columns of padding
    divergence = of(kind, 0.3, temperature)
    loss = kernels.sparse_divergence_(buffer, target, divergence, labels_N=labels, ce_weight=0.7, weights_N=weights)

    def total(z: torch.Tensor) -> torch.Tensor:
        return mixed_loss(kind, teacher, z, target.ids_NK, temperature, labels, 0.7) * weights

    double = student.double()
    torch.testing.assert_close(loss.double(), total(double), atol=1e-5, rtol=1e-5)
    assert (buffer[:, vocab:] == 0).all()
    assert (buffer[2] == 0).all()
    step = 1e-5
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        direction = torch.randn(4, vocab, dtype=torch.float64, generator=generator)
        slope = (total(double + step * direction) - total(double - step * direction)) / (2 * step)
        torch.testing.assert_close((buffer[:, :vocab].double() * direction).sum(1), slope, atol=2e-4, rtol=2e-4)


def test_sampled_targets_with_label_in_place() -> None:
    student, teacher, labels, weights = random_case(3, 8, 60)
    keys = torch.zeros(4, 4, dtype=torch.int64)
    keys[:, 1] = torch.arange(4)
    target = drawn_from(teacher, 8, keys)
    target.values_NK[3, 2] = 0.0  # a weight that was rounded to 0 in the middle is no end of the row
    double = student.double().requires_grad_()
    log_q = torch.log_softmax(double, 1).gather(1, target.ids_NK.long())
    expected = -(target.values_NK * log_q).sum(1) - target.tail_N
    expected = expected + 0.7 * torch.nn.functional.cross_entropy(double, labels, reduction="none")
    (expected * weights).sum().backward()
    loss = kernels.sparse_divergence_(student, target, labels_N=labels, ce_weight=0.7, weights_N=weights)
    assert double.grad is not None
    torch.testing.assert_close(loss.double(), (expected * weights).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(student.double(), double.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_half_precision_in_place_rounds_once(dtype: torch.dtype, temperature: float) -> None:
    student, teacher, labels, _ = random_case(5, 8, 200)
    target, half = target_of(teacher, 8, temperature), student.to(dtype)
    double = half.double().requires_grad_()
    expected = mixed_loss("jsd", teacher, double, target.ids_NK, temperature, labels, 0.7)
    expected.sum().backward()
    loss = kernels.sparse_divergence_(half, target, of("jsd", 0.3, temperature), labels_N=labels, ce_weight=0.7)
    assert double.grad is not None
    torch.testing.assert_close(loss.double(), expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(half.double(), double.grad, atol=1e-5, rtol=torch.finfo(dtype).eps * 0.51)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kept", [3, 130])
def test_rows_without_a_tail_at_every_precision(dtype: torch.dtype, temperature: float, kept: int) -> None:
    """The teacher keeps every id to which the student gives mass, and what it does not keep may still be NaN."""
    student, teacher, labels, _ = random_case(6, kept, 130)
    target = target_of(teacher, kept, temperature)
    ids, rows = target.ids_NK.long(), student.to(dtype)
    labels[2:] = ids[2:, -1]
    rows = torch.full_like(rows, -torch.inf).scatter(1, ids, rows.gather(1, ids))
    double, found = rows.double().requires_grad_(), rows.clone()
    log_q = torch.log_softmax(double / temperature, 1).gather(1, ids)
    log_p = target.values_NK.double()
    tail = torch.full_like(target.tail_N, -torch.inf)
    cross = torch.nn.functional.cross_entropy(double, labels, reduction="none")
    expected = (log_p.exp() * (log_p - log_q)).sum(1) * temperature**2 + 0.7 * cross
    expected.sum().backward()
    divergence = of("forward_kl", temperature=temperature)
    loss = kernels.sparse_divergence_(found, target._replace(tail_N=tail), divergence, labels_N=labels, ce_weight=0.7)
    assert double.grad is not None
    torch.testing.assert_close(loss.double(), expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.double(), double.grad, atol=1e-5, rtol=torch.finfo(dtype).eps * 0.51 + 1e-5)
    if kept < 130:
        rows[1, next(v for v in range(130) if v not in ids[1])] = torch.nan
        with pytest.raises(ModelError, match=r"row 1 .* NaN"):
            kernels.sparse_divergence_(rows, target, divergence, labels_N=labels, ce_weight=0.7)


# -- through autograd ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_both_faces_give_the_definitions_gradient(overwrite: bool, scaled: bool) -> None:
    student, teacher, _, weights = random_case(7, 8, 90)
    target = target_of(teacher, 8)
    leaf, double = student.clone().requires_grad_(), student.double().requires_grad_()
    logits = leaf * 1.5
    loss = kernels.sparse_divergence(logits, target, weights_N=weights, overwrite=overwrite)
    expected = reference("forward_kl", teacher, double * 1.5, target.ids_NK, 1.0, 0.5) * weights
    upstream = torch.tensor([1.0, -2.0, 3.0, 0.5]) if scaled else torch.ones(4)
    (loss * upstream).sum().backward()
    (expected * upstream).sum().backward()
    assert leaf.grad is not None and double.grad is not None
    torch.testing.assert_close(leaf.grad.double(), double.grad, atol=1e-6, rtol=1e-4)
    assert torch.equal(logits, student * 1.5) is not overwrite


def test_overwriting_what_autograd_still_needs_is_noticed() -> None:
    student, teacher, *_ = random_case(7, 8, 90)
    target, leaf = target_of(teacher, 8), student.clone().requires_grad_()
    with pytest.raises(UsageError, match="parameter"):
        kernels.sparse_divergence(leaf, target, overwrite=True)
    kept = leaf.exp()  # exp keeps its result for its own backward
    loss = kernels.sparse_divergence(kept, target, overwrite=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()
    product = leaf * 2
    loss = kernels.sparse_divergence(product, target, overwrite=True) * 3
    loss.sum().backward(retain_graph=True)
    with pytest.raises(UsageError, match="one backward"):
        loss.sum().backward()
    with pytest.raises(UsageError, match="contiguous"):
        kernels.sparse_divergence_(student.t().contiguous().t(), target)


def test_nothing_of_the_logits_size_is_allocated_when_overwriting() -> None:
    """Pitfall 24, where the logits are not copied."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor) and tensor.data_ptr() not in known:
                    self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
            return result

    student, teacher, *_ = random_case(7, 8, 3000)
    target, leaf = target_of(teacher, 8), student.requires_grad_()
    logits = leaf.view_as(leaf)
    known = {logits.data_ptr()}
    with Largest() as seen:  # type: ignore[no-untyped-call] # torch's has no types
        (kernels.sparse_divergence(logits, target, overwrite=True) * 2).sum().backward(inputs=[logits])
    assert seen.elements < 3000


# -- rows with nothing in some place: pitfall 12 ---------------------------------------------------------------


def test_ignored_rows_may_hold_anything() -> None:
    student, teacher, labels, weights = random_case(9, 8, 90)
    target = target_of(teacher, 8)
    for bad in (float("nan"), float("inf"), float("-inf")):
        rows = student.clone()
        rows[2] = bad
        rows.requires_grad_()
        loss = kernels.sparse_divergence(rows, target, weights_N=weights)
        loss.sum().backward()
        assert rows.grad is not None
        assert loss[2] == 0 and (rows.grad[2] == 0).all()
        assert torch.isfinite(rows.grad).all()
        buffer = rows.detach().clone()
        kernels.sparse_divergence_(buffer, target, labels_N=labels, ce_weight=1.0, weights_N=weights)
        assert torch.isfinite(buffer).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_no_distribution_are_named(bad: float) -> None:
    z = torch.randn(3, 30, generator=torch.Generator().manual_seed(0))
    target = target_of(z, 4)
    rows = z.clone()
    rows[1] = bad
    with pytest.raises(ModelError, match=r"row 1 of the student's logits holds (NaN|\+inf|nothing but -inf)"):
        kernels.sparse_divergence(rows, target)


def test_kept_ids_or_a_tail_without_mass() -> None:
    """What has no mass on the side that weights it adds 0; forward KL is +inf with a finite gradient where the
    student lacks what the teacher has; reverse KL is refused where the teacher lacks what the student has."""
    inf = float("inf")
    ids = torch.tensor([[0, 1]], dtype=torch.int32)
    teacher = SparseRows(ids, torch.full((1, 2), math.log(0.5)), torch.tensor([-inf]), 4)
    closed = torch.tensor([[0.0, 1.0, -inf, -inf]])  # the student's tail is empty too
    for kind in KINDS:
        buffer = closed.clone()
        loss = kernels.sparse_divergence_(buffer, teacher, of(kind))
        assert torch.isfinite(loss).all() and torch.isfinite(buffer).all(), kind
        assert (buffer[0, 2:] == 0).all() and abs(float(buffer.sum())) < 1e-6
    for kind in KINDS:
        buffer = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
        if kind == "reverse_kl":
            with pytest.raises(UndefinedLoss, match="row 0: reverse KL is infinite"):
                kernels.sparse_divergence_(buffer, teacher, of(kind))
            continue
        loss = kernels.sparse_divergence_(buffer, teacher, of(kind))
        assert torch.isfinite(loss).all() and torch.isfinite(buffer).all(), kind
    missing = torch.tensor([[0.0, -inf, 2.0, -1.0]])  # the student lacks id 1, which the teacher has
    loss = kernels.sparse_divergence_(missing, teacher)
    assert loss[0] == inf and torch.isfinite(missing).all()


def test_labels_out_of_range_and_broken_targets_are_refused() -> None:
    z = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    target = target_of(z, 4)
    with pytest.raises(MismatchError, match="row 1: label 30"):
        kernels.sparse_divergence_(z.clone(), target, labels_N=torch.tensor([0, 30]), ce_weight=1.0)
    target.values_NK[1, 0] = float("nan")
    with pytest.raises(MismatchError, match="row 1: the target holds NaN"):
        kernels.sparse_divergence(z, target)


def test_padding_of_a_top_k_row_is_left_out() -> None:
    logits_NV = torch.tensor([[0.1, 2.0, -1.0, 0.5]])
    ids, log_p, tail = torch.tensor([[1, 3]]), torch.tensor([[0.6, 0.3]]).log(), torch.tensor([0.1]).log()
    padded = SparseRows(
        torch.tensor([[1, -1, 3, -1]]).int(),
        torch.tensor([[log_p[0, 0], -torch.inf, log_p[0, 1], -torch.inf]]),
        tail,
        4,
    )
    plain, other = logits_NV.clone(), logits_NV.clone()
    loss = kernels.sparse_divergence_(plain, SparseRows(ids.int(), log_p, tail, 4))
    assert torch.equal(kernels.sparse_divergence_(other, padded), loss)
    assert torch.equal(plain, other)
    with pytest.raises(MismatchError, match="not increasing"):
        kernels.sparse_divergence_(other, padded._replace(values_NK=torch.zeros(1, 4)))
