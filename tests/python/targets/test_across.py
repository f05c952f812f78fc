"""Targets of cells against their definition on small vocabularies, and what draws do to them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from cross_tokenizer.small import small
from thack.cross_tokenizer import Cells, align, build_cells, read_bpe
from thack.losses import divergence, forward_kl
from thack.schema.targets import Divergence, TargetSpec
from thack.targets.across import AlignedResponse, CellCarrier, CellCounts, CellVariant
from thack.targets.cells import CellTarget
from thack.targets.select import select
from thack.targets.types import FrozenHeadTarget, Target

TEACHER, STUDENT = small(290), small(300, code=True)
KL = Divergence()


@cache
def cells(equal: bool = False) -> Cells:
    return build_cells(read_bpe(TEACHER), read_bpe(TEACHER if equal else STUDENT))


def response(text: str, equal: bool = False) -> AlignedResponse:
    student = TEACHER if equal else STUDENT
    ids = [np.append(t.encode(text), t.eos_id) for t in (TEACHER, student)]
    return AlignedResponse(
        teacher_ids=ids[0], student_ids=ids[1], alignment=align(ids[0], ids[1], read_bpe(TEACHER), read_bpe(student))
    )


RESPONSES = [response("the quick fox; 12,345"), response("for i in range(日本)")]
ROWS = sum(len(r.teacher_ids) for r in RESPONSES)
KEYS = torch.stack([torch.zeros(ROWS), torch.arange(ROWS), torch.zeros(ROWS), torch.zeros(ROWS)], 1).long()


def logits(rows: int = ROWS, width: int = TEACHER.size, seed: int = 0) -> Tensor:
    found = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 3
    ids = torch.from_numpy(np.concatenate([r.teacher_ids for r in RESPONSES]).astype(np.int64))
    if rows == ROWS and width == TEACHER.size:
        found[torch.arange(ROWS), ids] += 6  # a teacher that knows its text
    return found


def target(word: str, *, variant: CellVariant = "cell", counts: CellCounts | None = None, seed: int = 0) -> CellTarget:
    teacher = select(logits(), TargetSpec.parse(word), width=TEACHER.size, seed=seed, keys_N4=KEYS)
    return CellCarrier(cells=cells(), student_width=STUDENT.size, variant=variant).target(teacher, RESPONSES, counts)


def masses(found: CellTarget) -> list[dict[int, float]]:
    if found.cells_NK is None:
        return [{c: m for c, m in enumerate(row) if m > 1e-7} for row in found.mass_NK.tolist()]
    return [
        {c: m for c, m in zip(cells, row, strict=True) if c >= 0 and m > 1e-7}
        for cells, row in zip(found.cells_NK.tolist(), found.mass_NK.tolist(), strict=True)
    ]


def by_definition(p_NV: Tensor) -> list[dict[int, float]]:
    """P of each student row, pair by pair."""
    found, start = [], 0
    comparison, student = cells(), read_bpe(STUDENT)
    for r in RESPONSES:
        for n, (row, offset) in enumerate(zip(r.alignment.teacher_row_N, r.alignment.offset_N, strict=True)):
            mass: dict[int, float] = {}
            for v, p in enumerate(p_NV[start + row].tolist() if offset == 0 else []):
                f, c = int(comparison.first_V_T[v]), int(comparison.cell_teacher_V_T[v])
                before = None if n == 0 else student.bytes_V[r.student_ids[n - 1]]
                first = student.bytes_V[f] if f >= 0 else None
                pair = [int(r.student_ids[n - 1]), f]
                if f < 0 or (before and first and student_encode(before + first) != pair):
                    continue
                mass[c] = mass.get(c, 0.0) + p
            found.append({c: m for c, m in mass.items() if m > 1e-7})
        start += len(r.teacher_ids)
    return found


def student_encode(data: bytes) -> list[int]:
    try:
        return [int(i) for i in STUDENT.encode(data.decode())]
    except UnicodeDecodeError:
        return cells().student.encode(data)


def kept_probabilities(teacher: Target) -> Tensor:
    if hasattr(teacher, "log_probs_NV"):
        return teacher.log_probs_NV.exp()
    assert not isinstance(teacher, FrozenHeadTarget)
    values = teacher.weights_NK if hasattr(teacher, "weights_NK") else teacher.log_probs_NK.exp()
    return torch.zeros(ROWS, TEACHER.size).scatter_add_(1, teacher.ids_NK.long(), values)


@pytest.mark.parametrize("word", ["dense", "top-k:12", "sampled:8"])
def test_masses_are_the_definition(word: str) -> None:
    teacher = select(logits(), TargetSpec.parse(word), width=TEACHER.size, keys_N4=KEYS)
    found, expected = masses(target(word)), by_definition(kept_probabilities(teacher))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for c in ours.keys() | theirs.keys():
            assert ours.get(c, 0.0) == pytest.approx(theirs.get(c, 0.0), abs=2e-5)


def test_the_tail_is_one_outcome_beside_the_kept_cells() -> None:
    found = target("top-k:12")
    dense = logits().log_softmax(1).exp()
    kept = kept_probabilities(select(logits(), TargetSpec.parse("top-k:12"), width=TEACHER.size))
    common = ~found.is_inside_N
    tail = (dense - kept).sum(1)
    starts = np.cumsum([0, *(len(r.teacher_ids) for r in RESPONSES)])
    rows = np.concatenate([r.alignment.common_teacher_B + s for r, s in zip(RESPONSES, starts, strict=False)])
    torch.testing.assert_close(found.tail_N[common], tail[rows], rtol=0, atol=1e-5)
    assert not found.tail_N[~common].any()


def test_rows_inside_a_token_have_the_realised_token_alone() -> None:
    found = target("dense")
    assert found.is_inside_N.any()
    assert not found.mass_NK[found.is_inside_N].any()
    realised = np.concatenate([r.student_ids for r in RESPONSES])
    assert np.array_equal(found.ids_NW[:, 0].numpy(), realised)
    assert bool((found.weights_NW[:, 0] == 1).all())


def test_the_end_is_a_cell_of_its_own() -> None:
    found = masses(target("dense"))
    last = len(RESPONSES[0].student_ids) - 1
    end = int(cells().cell_student_V_S[STUDENT.eos_id])
    row = len(RESPONSES[0].teacher_ids) - 1
    assert found[last][end] == pytest.approx(float(logits().softmax(1)[row, TEACHER.eos_id]), rel=1e-4)


def test_counts() -> None:
    counts = CellCounts()
    target("dense", counts=counts)
    assert counts.student_rows == sum(len(r.student_ids) for r in RESPONSES)
    assert 0 < counts.common_rows < counts.student_rows
    assert counts.mass == pytest.approx(counts.common_rows, rel=1e-4)
    assert 0 < counts.settled < counts.common_rows
    assert 0 < counts.left_out < counts.mass  # padding has no text
    assert 0 < counts.forbidden < counts.mass


def test_the_next_row_is_carried_where_a_token_settles_nothing() -> None:
    found = target("top-k:12", variant="cell-next")
    spread = (found.weights_NW[:, 0] == 0).nonzero()[:, 0].tolist()
    assert spread, "no realised token of these responses is unsettled"
    torch.testing.assert_close(found.weights_NW.sum(1), torch.ones(len(found)))
    row = spread[0]
    n = RESPONSES[0].alignment
    assert row < len(n.teacher_row_N)
    t = int(n.teacher_row_N[row])
    teacher = select(logits(), TargetSpec.parse("top-k:12"), width=TEACHER.size)
    p_V = kept_probabilities(teacher)[t + 1]
    expected: dict[int, float] = {}
    tokens = read_bpe(TEACHER).bytes_V
    now, after = int(RESPONSES[0].teacher_ids[t]), int(RESPONSES[0].teacher_ids[t + 1])
    for v in p_V.nonzero()[:, 0].tolist():
        left, right = tokens[now], tokens[v] or b""
        assert left is not None
        if right and cells().teacher.encode(left + right) != [now, v] and v != after:
            continue
        u = int(RESPONSES[0].student_ids[row]) if v == after else student_encode(left + right)[0]
        expected[u] = expected.get(u, 0.0) + float(p_V[v])
    total = sum(expected.values())
    ours: dict[int, float] = {}
    for u, w in zip(found.ids_NW[row].tolist(), found.weights_NW[row].tolist(), strict=True):
        ours[u] = ours.get(u, 0.0) + w
    for u in ours.keys() | expected.keys():
        assert ours.get(u, 0.0) == pytest.approx(expected.get(u, 0.0) / total, abs=1e-5)


def test_what_settles_a_token_is_not_asked_for_by_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes some ms for each token, and where a token settles the student's, the next row says the same."""
    settled_B = cells().settled(np.concatenate([r.teacher_ids[r.alignment.common_teacher_B] for r in RESPONSES]))
    monkeypatch.setattr(Cells, "settled", lambda *_: pytest.fail("asked for"))
    found = target("dense", variant="cell-next")
    realised_N = torch.from_numpy(np.concatenate([r.student_ids for r in RESPONSES]))
    of_realised_N = (found.weights_NW * (found.ids_NW == realised_N[:, None])).sum(1)
    settled = torch.from_numpy(settled_B)
    assert settled.any() and not settled.all()
    torch.testing.assert_close(of_realised_N[~found.is_inside_N][settled], torch.ones(int(settled.sum())))
    assert bool((of_realised_N < 0.99).any())


def test_first_token_of_two_is_the_encoders() -> None:
    """Of pairs with half a character, an end, an id that is no text, a space, a word."""
    teacher, student = cells().teacher, cells().student
    bytes_V = teacher.bpe.bytes_V
    some = [v for v in range(0, TEACHER.size, 7)] + [TEACHER.eos_id]
    left, right = (ids.flatten() for ids in np.meshgrid(some, some))
    found = student.first_of_pairs(teacher, left, right)
    for a, b, first in zip(left, right, found, strict=True):
        token = bytes_V[a]
        assert first == (student.encode(token + (bytes_V[b] or b""))[0] if token else -1)


def test_draws_are_unbiased() -> None:
    """|mean − exact|² over the whole gradient is what its variance explains: about 1 in units of variance / draws."""
    z = logits(sum(len(r.student_ids) for r in RESPONSES), STUDENT.size, seed=9).requires_grad_()

    def gradient(word: str, seed: int = 0) -> Tensor:
        (found,) = torch.autograd.grad(divergence(z, target(word, seed=seed), KL).sum(), z)
        return found.double()

    exact = gradient("dense")
    draws = torch.stack([gradient("sampled:4", seed=seed) for seed in range(200)])
    mean = draws.mean(0)
    expected = float((draws - mean).square().sum() / (len(draws) - 1) / len(draws))
    assert 0.6 < float((mean - exact).square().sum()) / expected < 1.5


@pytest.mark.parametrize("word", ["dense", "top-k:12", "sampled:8"])
@pytest.mark.parametrize("variant", ["cell", "cell-next"])
def test_equal_tokenizers_give_the_gradient_of_forward_kl(word: str, variant: CellVariant) -> None:
    same = [response("the quick fox; 12,345", True), response("for i in range(日本)", True)]
    teacher = select(logits(), TargetSpec.parse(word), width=TEACHER.size, keys_N4=KEYS)
    carrier = CellCarrier(cells=cells(True), student_width=TEACHER.size, variant=variant, masks=False)
    z = logits(seed=5)
    z[:, TEACHER.pad_id] = -torch.inf  # no text: it has no part here, and no mass there
    teacher_logits = logits()
    teacher_logits[:, TEACHER.pad_id] = -torch.inf
    teacher = select(teacher_logits, TargetSpec.parse(word), width=TEACHER.size, keys_N4=KEYS)
    z.requires_grad_()
    (found,) = torch.autograd.grad(divergence(z, carrier.target(teacher, same), KL).sum(), z)
    (expected,) = torch.autograd.grad(forward_kl(z, teacher).sum(), z)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
