"""The loss on cells against its definition: values, gradients, and what has no mass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from thack.config import LossSettings
from thack.errors import MismatchError, ModelError, UndefinedLoss
from thack.losses import divergence, forward_kl, token_losses
from thack.losses.fused import fused_divergence
from thack.schema.targets import Divergence
from thack.targets import Projection
from thack.targets.cells import CellTarget, StudentCells
from thack.targets.types import DenseTarget, SampledTarget, TopKTarget

from . import cells_reference as reference

N, V, C, K = 12, 23, 9, 4
#: Ids 3 and 11 are no text; cell 8 has no id of the student's; cell 0 has one.
CELL_V = [0, 1, 2, -1, *([1, 2, 3, 4, 5, 6, 7] * 3)[:7], -1, *([1, 2, 3, 4, 5, 6, 7] * 3)[: V - 12]]
STUDENT = StudentCells(torch.tensor(CELL_V), C)
TEXT = [u for u, c in enumerate(CELL_V) if c >= 0]
KL = Divergence()


def target(kept: bool, seed: int = 0, *, tail: bool = True, dtype: torch.dtype = torch.float64) -> CellTarget:
    """Rows at boundaries, and inside a token of the teacher's (every third)."""
    generator = torch.Generator().manual_seed(seed)
    inside_N = torch.arange(N) % 3 == 2
    mass_NK = torch.softmax(torch.randn(N, K if kept else C - 1, generator=generator, dtype=dtype), 1) * 0.9
    cells_NK = torch.stack([torch.randperm(C - 1, generator=generator)[:K] for _ in range(N)]) if kept else None
    if not kept:
        mass_NK = torch.cat([mass_NK, torch.zeros(N, 1, dtype=dtype)], 1)
    elif cells_NK is not None:
        cells_NK[0, 2:], mass_NK[0, 2:] = -1, 0
    mass_NK[inside_N] = 0
    mass_NK[1] = 0  # all mass masked
    tail_N = torch.full((N,), 0.1 if kept and tail else 0.0, dtype=dtype).masked_fill(inside_N, 0)
    ids_N2 = torch.tensor([TEXT[int(i)] for i in torch.randint(len(TEXT), (N,), generator=generator)])
    return CellTarget(
        student=STUDENT,
        mass_NK=mass_NK,
        cells_NK=cells_NK,
        tail_N=tail_N,
        ids_NW=torch.stack([ids_N2, torch.tensor(TEXT)[(torch.arange(N) * 5) % len(TEXT)]], 1),
        weights_NW=torch.tensor([[0.75, 0.25]], dtype=dtype).expand(N, 2).contiguous(),
        is_inside_N=inside_N,
        vocab_size=V,
    )


def by_definition(logits_NV: Tensor, given: CellTarget) -> Tensor:
    found = []
    for n in range(len(given)):
        cells = list(range(C)) if given.cells_NK is None else [int(c) for c in given.cells_NK[n] if c >= 0]
        weights: dict[int, float] = {}
        for u, w in zip(given.ids_NW[n].tolist(), given.weights_NW[n].tolist(), strict=True):
            weights[u] = weights.get(u, 0.0) + w
        found.append(
            reference.loss(
                logits_NV[n],
                CELL_V,
                dict(zip(cells, given.mass_NK[n].tolist(), strict=False)),
                weights,
                tail=float(given.tail_N[n]),
                kept=cells,
                inside=bool(given.is_inside_N[n]),
            )
        )
    return torch.stack(found)


def logits(seed: int = 1, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(N, V, generator=torch.Generator().manual_seed(seed), dtype=dtype).mul_(scale).requires_grad_()


def value_and_slope(loss: Callable[[Tensor], Tensor], logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    loss_N = loss(logits_NV)
    (grad_NV,) = torch.autograd.grad((loss_N * torch.linspace(0.5, 2, N)).sum(), logits_NV)
    return loss_N.detach(), grad_NV


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_is_the_definition(kept: bool, dtype: torch.dtype) -> None:
    given = target(kept)
    expected = value_and_slope(lambda z: by_definition(z, given), logits())
    found = value_and_slope(lambda z: divergence(z, given, KL), logits().detach().to(dtype).requires_grad_())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-12 if dtype == torch.float64 else 3e-6)


@pytest.mark.parametrize("kept", [True, False])
def test_gradient_by_finite_differences(kept: bool) -> None:
    given = target(kept)
    assert torch.autograd.gradcheck(lambda z: divergence(z, given, KL), (logits(),))


@pytest.mark.parametrize("kept", [True, False])
def test_tiny_cells_keep_their_logarithm(kept: bool) -> None:
    """In float32, e^-300 is 0; the logarithm of a cell whose ids all have it is not −inf."""
    given = target(kept)
    found = value_and_slope(lambda z: divergence(z, given, KL), logits(scale=120).detach().float().requires_grad_())
    expected = value_and_slope(
        lambda z: by_definition(z, given), logits(scale=120).detach().float().double().requires_grad_()
    )
    assert float(expected[0].max()) > 120
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ids_without_mass(kept: bool, dtype: torch.dtype) -> None:
    """−inf of an id that nothing asks for is harmless; of one that has weight, or of a whole cell, the loss is +inf."""
    given, atol = target(kept), 1e-12 if dtype == torch.float64 else 3e-6
    asked = set(given.ids_NW.flatten().tolist())
    free = next(u for u in TEXT if u not in asked and CELL_V.count(CELL_V[u]) > 1)
    z = logits().detach().to(dtype)
    z[:, free] = -torch.inf
    torch.testing.assert_close(divergence(z, given, KL).double(), by_definition(z, given), rtol=0, atol=atol)
    z = logits().detach().to(dtype)
    z[0, int(given.ids_NW[0, 0])] = -torch.inf
    found = divergence(z, given, KL)
    assert torch.isposinf(found[0]) and torch.isfinite(found[1:]).all()
    cell = 5 if given.cells_NK is None else int(given.cells_NK[0, 0])
    z = logits().detach().to(dtype)
    z[0, [u for u in TEXT if CELL_V[u] == cell]] = -torch.inf
    elsewhere = torch.full_like(given.ids_NW, next(u for u in TEXT if CELL_V[u] != cell))
    found, slope_NV = value_and_slope(lambda x: divergence(x, replace(given, ids_NW=elsewhere), KL), z.requires_grad_())
    assert torch.isposinf(found[0]) and torch.isfinite(found[1:]).all()
    assert dtype == torch.float64 or torch.isfinite(slope_NV).all()


def wide(width: int, num_cells: int, kept: int) -> CellTarget:
    """Cells of very different sizes, weights of several ids of one cell and of one id twice, rows with nothing else."""
    generator = torch.Generator().manual_seed(7)
    cell_V = (torch.rand(width, generator=generator).square() * num_cells).long()
    cell_V[torch.randperm(width, generator=generator)[: width // 50]] = -1
    text = (cell_V >= 0).nonzero()[:, 0]
    ids_NW = text[torch.randint(len(text), (N, 5), generator=generator)]
    ids_NW[:, 1] = ids_NW[:, 0]
    same = (cell_V == cell_V[ids_NW[0, 0]]).nonzero()[:, 0]
    ids_NW[0, 2] = same[-1]
    inside_N = torch.arange(N) % 4 == 3
    mass_NK = torch.softmax(torch.randn(N, kept, generator=generator) * 2, 1) * 0.95
    return CellTarget(
        student=StudentCells(cell_V, num_cells),
        mass_NK=mass_NK.masked_fill(inside_N[:, None], 0),
        cells_NK=torch.stack([torch.randperm(num_cells, generator=generator)[:kept] for _ in range(N)]),
        tail_N=torch.where(inside_N | (torch.arange(N) % 2 == 0) | (kept == num_cells), 0.0, 0.05),
        ids_NW=ids_NW,
        weights_NW=torch.softmax(torch.randn(N, 5, generator=generator), 1),
        is_inside_N=inside_N,
        vocab_size=width,
    )


@pytest.mark.parametrize(("width", "num_cells", "kept"), [(5000, 3000, 64), (700, 90, 1), (300, 20, 20)])
def test_the_kernel_is_the_loss_in_double_precision(width: int, num_cells: int, kept: int) -> None:
    given = wide(width, num_cells, kept)
    z = torch.randn(N, width, generator=torch.Generator().manual_seed(8)) * 4
    found = value_and_slope(lambda x: divergence(x, given, KL), z.clone().requires_grad_())
    expected = value_and_slope(lambda x: divergence(x, given, KL), z.double().requires_grad_())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=3e-7)


def test_a_student_that_diverged_is_named() -> None:
    given, z = target(True, dtype=torch.float32), logits(dtype=torch.float32).detach()
    for value, what in ((torch.nan, "NaN"), (torch.inf, r"\+inf")):
        for place in (0, int(given.ids_NW[4, 0])):
            wrong = z.clone()
            wrong[4, place] = value
            with pytest.raises(ModelError, match=f"row 4 of the student's logits holds {what}"):
                divergence(wrong, given, KL)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_target_of_other_cells_is_refused_by_row_and_id(kept: bool, dtype: torch.dtype) -> None:
    given, z = target(kept, dtype=dtype), logits(dtype=dtype).detach()
    ids_NW, weights_NW = given.ids_NW.clone(), given.weights_NW.clone()
    ids_NW[4, 1] = 3
    weights_NW[4, 1] = 0
    assert torch.isfinite(divergence(z, replace(given, ids_NW=ids_NW, weights_NW=weights_NW), KL)).all()
    for wrong in (3, -1, V):
        ids_NW[4, 1] = wrong
        with pytest.raises(MismatchError, match=f"row 4: student id {wrong} has a weight and no cell"):
            divergence(z, replace(given, ids_NW=ids_NW), KL)
    if given.cells_NK is not None:
        with pytest.raises(MismatchError, match=f"row 0: cell {int(given.cells_NK[0, 0]) + C} is none"):
            divergence(z, replace(given, cells_NK=given.cells_NK + C), KL)


def test_ids_that_are_no_text_have_no_part() -> None:
    given, z = target(True), logits().detach()
    moved = z.clone()
    moved[:, [3, 11]] += 50
    torch.testing.assert_close(divergence(z, given, KL), divergence(moved, given, KL))
    _, grad_NV = value_and_slope(lambda x: divergence(x, given, KL), logits())
    assert not grad_NV[:, [3, 11]].any()


def equal(teacher: DenseTarget | TopKTarget | SampledTarget, labels_N: Tensor) -> CellTarget:
    """The same target where every id is a cell of its own."""
    cells_NK, tail_N = None, torch.zeros(N)
    if isinstance(teacher, DenseTarget):
        mass = teacher.log_probs_NV.exp()
    elif isinstance(teacher, TopKTarget):
        assert teacher.log_tail_N is not None
        mass, cells_NK, tail_N = teacher.log_probs_NK.exp(), teacher.ids_NK.long(), teacher.log_tail_N.exp()
    else:
        mass, cells_NK = teacher.weights_NK, teacher.ids_NK.long()
    return CellTarget(
        student=StudentCells(torch.arange(V), V),
        mass_NK=mass,
        cells_NK=cells_NK,
        tail_N=tail_N,
        ids_NW=labels_N[:, None],
        weights_NW=torch.ones(N, 1),
        is_inside_N=torch.zeros(N, dtype=torch.bool),
        vocab_size=V,
    )


@pytest.mark.parametrize("kind", ["dense", "top-k", "sampled"])
def test_equal_tokenizers_give_the_gradient_of_forward_kl(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    p_NV = torch.softmax(torch.randn(N, V, generator=generator) * 2, 1)
    ids_NK = p_NV.topk(K).indices.sort(1).values
    kept_NK = p_NV.gather(1, ids_NK)
    one = torch.ones(N)
    teachers: dict[str, DenseTarget | TopKTarget | SampledTarget] = {
        "dense": DenseTarget(log_probs_NV=p_NV.log()),
        "top-k": TopKTarget(
            ids_NK=ids_NK.int(), log_probs_NK=kept_NK.log(), log_tail_N=(1 - kept_NK.sum(1)).log(), vocab_size=V
        ),
        "sampled": SampledTarget(
            ids_NK=ids_NK.int(),
            weights_NK=kept_NK,
            counts_N=(K * one).int(),
            tau_N=one,
            entropy_N=0 * one,
            vocab_size=V,
        ),
    }
    teacher = teachers[kind]
    labels_N = torch.randint(V, (N,), generator=generator)
    z = logits(dtype=torch.float32)
    _, expected = value_and_slope(lambda x: forward_kl(x, teacher), z)
    _, found = value_and_slope(lambda x: divergence(x, equal(teacher, labels_N), KL), z)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize("ce_weight", [0.0, 0.3])
def test_fused_with_the_head(kept: bool, chunk: int, ce_weight: float) -> None:
    generator = torch.Generator().manual_seed(5)
    settings, given = LossSettings(ce_weight=ce_weight), target(kept)
    labels_N = given.ids_NW[:, 0].contiguous()
    hidden, weight = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (N, V))
    grads = []
    for fused in (True, False):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
        if fused:
            head = Projection(weight_VH=leaves[1])
            loss = fused_divergence(leaves[0], head, given, labels_N, settings, chunk=chunk)
        else:
            loss = token_losses(leaves[0] @ leaves[1].t(), given, labels_N, settings).sum()
        grads.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_half_precision_keeps_its_format() -> None:
    given = target(True)
    z = logits().detach().bfloat16().requires_grad_()
    loss_N = divergence(z, given, KL)
    assert loss_N.dtype == torch.float32
    torch.testing.assert_close(loss_N.double(), by_definition(z.detach().double(), given), rtol=0, atol=1e-4)
    loss_N.sum().backward()
    assert z.grad is not None and z.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["reverse_kl", "jsd", "skewed_kl", "total_variation"])
def test_other_divergences_are_refused(kind: str) -> None:
    with pytest.raises(UndefinedLoss, match=f"{kind} is not defined"):
        divergence(logits(), target(True), Divergence(kind=kind))  # type: ignore[arg-type]


def test_other_temperatures_and_shapes_are_refused() -> None:
    with pytest.raises(UndefinedLoss, match="temperature 2 is not defined"):
        divergence(logits(), target(True), Divergence(temperature=2))
    with pytest.raises(MismatchError, match="different shapes"):
        divergence(logits()[:, 1:], target(True), KL)
