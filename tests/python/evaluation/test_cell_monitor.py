"""The distance between cells on fixed responses: against its definition, and against forward KL for one tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thack.cross_tokenizer import Cells, Rewriter, build_cells, read_bpe, rewritten_from
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.evaluation.cell_monitor import FixedCellKL
from thack.models.batch import Batch
from thack.models.native.llama import Llama
from thack.targets.across import CellCarrier

from .small import sharp
from .two_tokenizers import TEXTS, ours, theirs


def sequences(tokenizer: Tokenizer) -> list[TokenSequence]:
    end = np.int32(tokenizer.eos_id)
    return [
        TokenSequence(
            example=7 * i,
            prompt_id=f"p{i}",
            prompt_ids=tokenizer.encode(f"def f{i}(x)"),
            response_ids=np.append(tokenizer.encode(text), end),
        )
        for i, text in enumerate(TEXTS)
    ]


def by_definition(s: TokenSequence, teacher: Llama, student: Llama, cells: Cells) -> tuple[float, int]:
    """Σ_c P log(P/Q) over the rows where a token of both begins, in loops and float64."""
    pair = rewritten_from(s)
    with torch.no_grad():
        p_TV = torch.softmax(teacher(Batch.of([pair.source])).double(), 1).numpy()
        z_SV = student(Batch.of([s])).double().numpy()
    total = 0.0
    common = list(zip(pair.alignment.common_student_B, pair.alignment.common_teacher_B, strict=True))
    for row, other in common:
        mass, q = np.zeros(cells.num_cells), np.zeros(cells.num_cells)
        text = cells.cell_student_V_S >= 0
        share = np.exp(z_SV[row]) * text / (np.exp(z_SV[row]) * text).sum()
        for u in np.flatnonzero(text):
            q[cells.cell_student_V_S[u]] += share[u]
        for v, p in enumerate(p_TV[other]):
            cell, first = cells.cell_teacher_V_T[v], cells.first_V_T[v]
            if cell < 0 or first < 0 or q[cell] == 0:
                continue
            before = -1 if row == 0 else int(s.response_ids[row - 1])
            if p < 1e-5 or cells.can_student(np.array([before]), np.array([first]))[0]:
                mass[cell] += p
        mass /= mass.sum()
        total += float(sum(m * np.log(m / b) for m, b in zip(mass, q, strict=True) if m > 0))
    return total, len(common)


def test_equals_its_definition() -> None:
    teacher, student = sharp(theirs(), 1), sharp(ours(), 2)
    cells = build_cells(read_bpe(theirs()), read_bpe(ours()))
    rewrite = Rewriter(theirs(), ours(), cells)
    given = [rewrite(s) for s in sequences(theirs())]
    carrier = CellCarrier(cells=cells, student_width=student.vocab_size)
    monitor = FixedCellKL(given, teacher, theirs().size, carrier, batch_size=2)
    found = monitor.measure(student)
    expected = [by_definition(s, teacher, student, cells) for s in given]
    np.testing.assert_allclose(found.nats_P, [nats for nats, _ in expected], rtol=1e-4)
    assert found.tokens_P.tolist() == [rows for _, rows in expected]
    scored = monitor.scored_tokens
    assert monitor.measure(student).nats_P.tolist() == found.nats_P.tolist()
    assert monitor.scored_tokens == scored == sum(len(s.source.response_ids) for s in given)
    none = FixedCellKL(given, teacher, theirs().size, carrier, batch_size=2, memory_bytes=0)
    assert none.measure(student).nats_P.tolist() == found.nats_P.tolist()


def test_one_tokenizer_gives_the_forward_kl_of_every_row() -> None:
    teacher, student = sharp(ours(), 1), sharp(ours(), 2)
    bpe = read_bpe(ours())
    cells = build_cells(bpe, bpe)
    given = sequences(ours())
    rewrite = Rewriter(ours(), ours(), cells)
    carrier = CellCarrier(cells=cells, student_width=student.vocab_size, masks=False)
    found = FixedCellKL([rewrite(s) for s in given], teacher, ours().size, carrier).measure(student)
    text = [i for i in range(ours().size) if i != ours().pad_id]  # an id that is no text has no part in a cell
    for s, nats, tokens in zip(given, found.nats_P, found.tokens_P, strict=True):
        with torch.no_grad():
            log_p, log_q = (m(Batch.of([s])).double()[:, text].log_softmax(1) for m in (teacher, student))
        assert nats == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), rel=1e-4)
        assert tokens == len(s.response_ids)
    same = FixedCellKL([rewrite(s) for s in given], teacher, ours().size, carrier).measure(teacher)
    np.testing.assert_allclose(same.nats_P, 0, atol=1e-5)
