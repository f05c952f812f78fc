"""Published losses between two tokenizers against their definitions: values, gradients, and what they forget."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thack.cross_tokenizer import Cells, align, build_cells, read_bpe
from thack.data.tokenizer import Tokenizer
from thack.errors import UndefinedLoss
from thack.losses import divergence
from thack.schema.cross_tokenizer import PUBLISHED, check_across_defined, check_published_target
from thack.schema.targets import Divergence, TargetSpec
from thack.targets.across import AlignedResponse, CellCounts
from thack.targets.published import ChunkTarget, EqualStrings, MergedTarget, PublishedCarrier, PublishedTarget
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget

from . import published_reference as reference

TEXTS = ("dive back, five of them", "naïve: give 日本 of it", "x")
KL = Divergence()
END = b"\xff"  # stands for an end: no UTF-8 holds it


@cache
def theirs() -> Tokenizer:
    return Tokenizer.train(["dive back, five of them: give some def of it"] * 9, 272)


@cache
def ours() -> Tokenizer:
    return Tokenizer.train([f"def f{i}(x) give {i % 3} back, of 日本" for i in range(9)], 278)


@cache
def cells() -> Cells:
    return build_cells(read_bpe(theirs()), read_bpe(ours()))


@cache
def responses() -> tuple[AlignedResponse, ...]:
    found = []
    for text in TEXTS:
        a, b = (np.append(t.encode(text), t.eos_id).astype(np.int64) for t in (theirs(), ours()))
        alignment = align(a, b, cells().teacher.bpe, cells().student.bpe)
        found.append(AlignedResponse(teacher_ids=a, student_ids=b, alignment=alignment))
    return tuple(found)


def rows(side: str) -> int:
    return sum(len(getattr(r, f"{side}_ids")) for r in responses())


def dense(seed: int = 0) -> DenseTarget:
    logits = torch.randn(rows("teacher"), theirs().size, generator=torch.Generator().manual_seed(seed)) * 3
    return DenseTarget(log_probs_NV=torch.log_softmax(logits.double(), 1))


def logits(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows("student"), ours().size, generator=generator).double() * 3).requires_grad_()


def target(variant: Any, teacher: Target | None = None, temperature: float = 100.0) -> PublishedTarget:
    carrier = PublishedCarrier(
        cells=cells(),
        teacher_width=theirs().size,
        student_width=ours().size,
        variant=variant,
        temperature=temperature,
    )
    return carrier.target(dense() if teacher is None else teacher, responses())


def each(teacher_MV: Tensor, student_NV: Tensor) -> list[tuple[Tensor, Tensor, AlignedResponse, Any]]:
    """Rows, ids and chunks of every response."""
    found, m, n = [], 0, 0
    for r in responses():
        texts = [
            [t.bytes_V[int(i)] or END for i in ids]
            for t, ids in ((cells().teacher.bpe, r.teacher_ids), (cells().student.bpe, r.student_ids))
        ]
        p, q = teacher_MV[m : m + len(r.teacher_ids)], student_NV[n : n + len(r.student_ids)]
        found.append((p, q, r, reference.chunks(*texts)))
        m, n = m + len(r.teacher_ids), n + len(r.student_ids)
    return found


def by_definition(variant: str, student_NV: Tensor, divergence: Divergence, temperature: float) -> Tensor:
    q_NV = torch.softmax(student_NV, 1)
    bytes_T = cells().teacher.bpe.id_of
    equal = {v: cells().student.bpe.id_of[t] for t, v in bytes_T.items() if t in cells().student.bpe.id_of}
    equal[theirs().eos_id] = ours().eos_id
    total = torch.zeros((), dtype=torch.float64)
    for p, q, r, parts in each(dense().log_probs_NV.exp(), q_NV):
        if variant == "alm":
            p_M = p.gather(1, torch.from_numpy(r.teacher_ids)[:, None])[:, 0]
            q_N = q.gather(1, torch.from_numpy(r.student_ids)[:, None])[:, 0]
            total = total + reference.alm(p_M, q_N, parts, temperature)
        elif variant == "gold":
            ids = r.teacher_ids.tolist(), r.student_ids.tolist()
            total = total + reference.gold(p, q, *ids, parts, equal, divergence.kind)
        else:
            in_order = [(n, n) for n in range(min(len(p), len(q)))]
            common = [(teacher[0], student[0]) for teacher, student in parts]
            for m, n in in_order if variant == "uld" else common:
                total = total + reference.sorted_l1(p[m], q[n])
    return total


CASES = [
    ("alm", KL, 100.0),
    ("alm", KL, 1.0),
    ("uld", KL, 1.0),
    ("uld-common", KL, 1.0),
    ("gold", KL, 1.0),
    ("gold", Divergence(kind="reverse_kl"), 1.0),
    ("gold", Divergence(kind="jsd"), 1.0),
]


@pytest.mark.parametrize(("variant", "kind", "temperature"), CASES)
def test_is_the_definition(variant: str, kind: Divergence, temperature: float) -> None:
    z_NV = logits()
    found = divergence(z_NV, target(variant, temperature=temperature), kind).sum()
    expected = by_definition(variant, z_NV, kind, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # targets are float32
    slopes = [torch.autograd.grad(loss, z_NV, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_gradient_by_finite_differences(variant: str) -> None:
    given, z_NV, step = target(variant), logits(), 1e-5
    (slope_NV,) = torch.autograd.grad(divergence(z_NV, given, KL).sum(), z_NV)
    direction_NV = torch.randn_like(z_NV)
    above, below = (divergence((z_NV + sign * step * direction_NV).detach(), given, KL).sum() for sign in (1.0, -1.0))
    torch.testing.assert_close((above - below) / (2 * step), (slope_NV * direction_NV).sum(), rtol=1e-4, atol=1e-5)


def test_a_chunk_that_the_teacher_rules_out_is_the_other_event_alone() -> None:
    """ALM of p = 0 is −τ·log(1 − q^(1/τ)), with its gradient, also where the student rules the chunk out too."""
    given = ChunkTarget(
        labels_N=torch.tensor([1, 1]),
        chunk_N=torch.tensor([0, 1]),
        is_last_N=torch.tensor([True, True]),
        log_p_N=torch.tensor([-torch.inf, -torch.inf]),
        temperature=100.0,
        vocab_size=3,
    )
    z_NV = torch.tensor([[0.3, 1.0, -2.0], [0.3, -torch.inf, 1.0]], dtype=torch.float64).requires_grad_()
    loss_N = divergence(z_NV, given, KL)
    log_q = torch.log_softmax(z_NV[0], 0)[1]
    expected = -100 * (-torch.expm1(log_q / 100)).log()
    torch.testing.assert_close(loss_N, torch.stack([expected, torch.zeros_like(expected)]))
    slopes = [torch.autograd.grad(loss, z_NV, retain_graph=True)[0] for loss in (loss_N.sum(), expected)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_two_ends_of_a_teacher_are_one_of_the_student(kind: Any) -> None:
    """GOLD is 0 with its gradient where the student gives its EOS what the teacher gives EOS and the end of a turn."""
    same = SimpleNamespace(id_of={b"a": 0, b"b": 1})
    teacher = SimpleNamespace(id_of=same.id_of, roles={"eos": 2, "turn": 3})
    student = SimpleNamespace(id_of=same.id_of, roles={"eos": 2})
    compared: Any = SimpleNamespace(teacher=SimpleNamespace(bpe=teacher), student=SimpleNamespace(bpe=student))
    given = MergedTarget(
        labels_N=torch.tensor([2]),
        chunk_N=torch.tensor([0]),
        is_first_N=torch.tensor([True]),
        mass_NV=torch.tensor([[0.05, 0.05, 1e-6, 0.9 - 1e-6]], dtype=torch.float64),
        equal=EqualStrings.of(compared, 4, 3),
        vocab_size=3,
    )
    z_NV = torch.tensor([[0.05, 0.05, 0.9]], dtype=torch.float64).log().requires_grad_()
    loss = divergence(z_NV, given, Divergence(kind=kind)).sum()
    assert abs(float(loss.detach())) < 1e-9
    assert torch.autograd.grad(loss, z_NV)[0].abs().max() < 1e-9


def test_chunks_cover_both_encodings() -> None:
    for _, q, r, parts in each(dense().log_probs_NV, logits()):
        assert [m for teacher, _ in parts for m in teacher] == list(range(len(r.teacher_ids)))
        assert [n for _, student in parts for n in student] == list(range(len(q)))
        assert len(parts) == len(r.alignment.common_student_B) > 1


def chunk_target(temperature: float = 100.0) -> ChunkTarget:
    found = target("alm", temperature=temperature)
    assert isinstance(found, ChunkTarget)
    return found


def test_alm_has_the_limit_that_it_names_and_no_slope_where_chunks_are_as_likely() -> None:
    given, z_NV = chunk_target(1e6), logits()
    log_q_N = torch.log_softmax(z_NV, 1).gather(1, given.labels_N[:, None])[:, 0].detach()
    y_C = -torch.zeros(int(given.is_last_N.sum())).double().index_add(0, given.chunk_N, log_q_N)
    x_C = -given.log_p_N[given.is_last_N].double()
    found_N = divergence(z_NV, given, KL).detach()
    torch.testing.assert_close(found_N[given.is_last_N], y_C - x_C + x_C * (x_C / y_C).log(), rtol=1e-3, atol=1e-6)
    assert not found_N[~given.is_last_N].any()
    same_N = given.log_p_N.double().masked_scatter(given.is_last_N, -y_C)
    (slope_NV,) = torch.autograd.grad(divergence(z_NV, replace(given, log_p_N=same_N), KL).sum(), z_NV)
    assert float(slope_NV.abs().max()) < 1e-6


def test_a_sure_chunk_has_a_finite_loss() -> None:
    z_NV = logits().detach()
    z_NV[torch.arange(len(z_NV)), chunk_target().labels_N] += 200
    z_NV.requires_grad_()
    for dtype in (torch.float32, torch.float64):
        found = divergence(z_NV.to(dtype), target("alm"), KL).sum()
        (slope_NV,) = torch.autograd.grad(found, z_NV)
        assert torch.isfinite(found) and torch.isfinite(slope_NV).all()


def test_uld_forgets_which_token_is_which() -> None:
    z_NV = logits().detach()
    moved_NV = z_NV[:, torch.randperm(z_NV.shape[1])]
    given = target("uld")
    torch.testing.assert_close(divergence(z_NV, given, KL), divergence(moved_NV, given, KL))


def test_uld_of_top_k_bounds_that_of_all() -> None:
    whole, z_NV = dense(), logits().detach()
    top = whole.log_probs_NV.topk(8, 1)
    order = top.indices.argsort(1)
    kept = TopKTarget(
        ids_NK=top.indices.gather(1, order).int(),
        log_probs_NK=top.values.gather(1, order).float(),
        log_tail_N=(1 - top.values.exp().sum(1)).log().float(),
        vocab_size=theirs().size,
    )
    of_all, of_kept = (divergence(z_NV, target("uld", teacher), KL) for teacher in (whole, kept))
    assert (of_kept <= of_all + 1e-6).all() and float(of_kept.sum()) > 0.5 * float(of_all.sum())
    p_K, tail = top.values[0].exp(), 1 - top.values[0].exp().sum()
    q_V = torch.softmax(z_NV[0], 0).sort(descending=True).values
    expected = (p_K - q_V[:8]).abs().sum() + (tail - q_V[8:].sum()).abs()
    torch.testing.assert_close(of_kept[0], expected, rtol=1e-5, atol=1e-6)


def test_counts_what_cells_would_count() -> None:
    counts = CellCounts()
    carrier = PublishedCarrier(cells=cells(), teacher_width=theirs().size, student_width=ours().size, variant="uld")
    carrier.target(dense(), responses(), counts)
    assert counts.student_rows == rows("student") and 0 < counts.shares().common < 1


def test_what_is_refused() -> None:
    sampled = TargetSpec(kind="sampled", k=4)
    for loss, spec in (
        ("uld", sampled),
        ("uld-common", sampled),
        ("gold", sampled),
        ("gold", TargetSpec(kind="top-k", k=4)),
    ):
        with pytest.raises(UndefinedLoss, match=f"cross_tokenizer = {loss} is not defined on"):
            check_published_target(loss, spec)  # type: ignore[arg-type]
    for loss in ("alm", "cell"):
        check_published_target(loss, sampled)  # type: ignore[arg-type]
    check_across_defined("gold", Divergence(kind="jsd"))
    for loss, kind in (("alm", "jsd"), ("uld", "reverse_kl"), ("gold", "total_variation")):
        with pytest.raises(UndefinedLoss, match=f"not defined by loss.cross_tokenizer = {loss}"):
            check_across_defined(loss, Divergence(kind=kind))  # type: ignore[arg-type]
    with pytest.raises(UndefinedLoss, match=r"not defined by loss\.cross_tokenizer = gold"):
        divergence(logits(), target("gold"), Divergence(temperature=2.0))
    one = torch.ones(rows("teacher"))
    unknown = SampledTarget(
        ids_NK=one[:, None].int(),
        weights_NK=one[:, None],
        counts_N=one.int(),
        tau_N=one,
        entropy_N=0 * one,
        vocab_size=272,
    )
    with pytest.raises(UndefinedLoss, match="log-probability of the response token is not known"):
        target("alm", unknown)
