"""A run from end to end on text that is no ASCII: tokens of both that end inside characters, responses cut there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from losses import cells_reference as reference
from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import CacheSettings
from thack.cross_tokenizer import Bpe, Cells, build_cells, read_bpe
from thack.cross_tokenizer.encoder import Encoder
from thack.data.records import Record
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.models.batch import Batch
from thack.models.load import load_model, new_decoder
from thack.models.protocol import LanguageModel
from thack.runtime.progress import SILENT
from thack.training import run_distill

from .across_world import SIZE, across, losses
from .world import DATA, write

WORDS = ["日本語", "東京都", "ключ", "Größe", "déjà", "🙂🙃", "日曜日", "ελιά"]
NUM, LONGEST = 6, 14


@cache
def tokenizers() -> tuple[Tokenizer, Tokenizer]:
    """The teacher's knows some characters and parts of others, the student's other ones."""
    return Tokenizer.train(["日本語の東京都、ключ déjà"] * 9, 290), Tokenizer.train(["日曜日 Größe 🙂 ελιά к"] * 9, 285)


@cache
def compared() -> Cells:
    teacher, student = tokenizers()
    return build_cells(read_bpe(teacher), read_bpe(student))


@pytest.fixture(autouse=True)
def compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thack.training.across.kept_cells", lambda teacher, student: compared())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("text")
    for n, (name, tokenizer) in enumerate(zip(("teacher", "student"), tokenizers(), strict=True)):
        model = new_decoder(replace(SIZE, max_positions=128), tokenizer, n)
        with torch.no_grad():
            model.lm_head.weight.mul_(20)
        model.save(root / name)
    texts = [" ".join(WORDS[n : n + 3]) for n in range(NUM)]
    write(root / "prompts.jsonl", [Record(prompt_id=f"id{n}", prompt=f"é{n}", response=t) for n, t in enumerate(texts)])
    data = replace(DATA, path=str(root / "prompts.jsonl"), max_response_tokens=LONGEST)
    dense = CacheSettings(out=root / "dense", teacher=str(root / "teacher"), data=data, device="cpu", kind="dense")
    capture(dense, SILENT)
    capture(replace(dense, out=root / "sampled", kind="sampled", sampled=8), SILENT)
    return root


def test_the_first_loss_of_a_run_is_the_definitions(world: Path, tmp_path: Path) -> None:
    run = run_distill(across(world, tmp_path / "run", "dense", steps=1, batch_size=NUM))
    teacher, student = load_model(world / "teacher"), load_model(world / "student")
    cached = Cache.open(world / "dense")
    found = [loss for n in range(NUM) for loss in _by_definition(cached.sequences(n), teacher, student)]
    assert losses(run.path)[0] == pytest.approx(np.mean(found), rel=2e-3)


def _by_definition(s: TokenSequence, teacher: LanguageModel, student: LanguageModel) -> Iterator[float]:
    """Of each row of the student's, in float64; the response by its bytes alone."""
    theirs, ours = (read_bpe(tokenizer) for tokenizer in tokenizers())
    encoder, cells = Encoder(ours), compared()
    written = [int(i) for i in s.response_ids if i != tokenizers()[0].eos_id]
    end = [tokenizers()[1].eos_id] * (len(written) < len(s.response_ids))
    ids = [*encoder.encode(b"".join(theirs.bytes_V[i] or b"" for i in written)), *end]
    prompt = tokenizers()[1].encode(tokenizers()[0].decode(s.prompt_ids))
    read = TokenSequence(example=0, prompt_id="", prompt_ids=prompt, response_ids=np.array(ids, np.int32))
    with torch.no_grad():
        p_NV, z_NV = (model(Batch.of([one])).double() for model, one in ((teacher, s), (student, read)))
    p_NV = p_NV[:, : theirs.size].softmax(1)
    rows = dict(zip(_starts(written, theirs), range(len(s.response_ids)), strict=False))
    cell_V = [int(cell) for cell in cells.cell_student_V_S]
    for n, (start, u) in enumerate(zip(_starts(ids, ours), ids, strict=False)):
        mass: dict[int, float] = {}
        for v, p in enumerate(p_NV[rows[start]].tolist() if start in rows else []):
            first, cell = int(cells.first_V_T[v]), int(cells.cell_teacher_V_T[v])
            known = first >= 0 and cell in cell_V
            if known and (n == 0 or _may_stand(encoder, ids[n - 1], first)):
                mass[cell] = mass.get(cell, 0.0) + p
        yield float(reference.loss(z_NV[n], cell_V, mass, {u: 1.0}, inside=start not in rows))


def _starts(ids: list[int], bpe: Bpe) -> list[int]:
    """The byte at which each token begins, and the end of the text: of an end behind it."""
    return [0, *np.cumsum([len(bpe.bytes_V[i] or b"") for i in ids]).tolist()]


def _may_stand(encoder: Encoder, a: int, b: int) -> bool:
    left, right = encoder.bpe.bytes_V[a], encoder.bpe.bytes_V[b]
    return not (left and right) or encoder.encode(left + right) == [a, b]


def test_characters_are_split_by_both_and_by_the_end_of_responses(world: Path) -> None:
    cached, bytes_V = Cache.open(world / "dense"), read_bpe(tokenizers()[0]).bytes_V
    texts = [b"".join(bytes_V[i] or b"" for i in cached.sequences(n).response_ids) for n in range(NUM)]
    assert any(text != text.decode("utf-8", "ignore").encode() for text in texts)
    for tokenizer in tokenizers():
        tokens = [read_bpe(tokenizer).bytes_V[i] or b"" for i in tokenizer.encode("日本語 Größe")]
        assert any(token != token.decode("utf-8", "ignore").encode() for token in tokens)


def test_it_learns_from_draws_and_is_measured(world: Path, tmp_path: Path) -> None:
    write(world / "held_out.jsonl", [Record(prompt_id="h", prompt="é9", response="日本語")])
    given = {"teacher": str(world / "teacher"), "eval_data": str(world / "held_out.jsonl")}
    run = run_distill(across(world, tmp_path / "run", "sampled", epochs=12, **given))
    found = losses(run.path)
    assert np.mean(found[-4:]) < 0.9 * np.mean(found[:4])
