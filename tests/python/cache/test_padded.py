"""Heads wider than the tokenizer: padded ids are in no record, however likely the teacher makes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.cache.exchange.importing import ImportSettings, import_cache
from thack.cache.exchange.source_row import SourceRow
from thack.cache.exchange.survey import completed, without_padded
from thack.cache.exchange.tails import RowTail
from thack.config import CacheSettings
from thack.data.eos import Ends
from thack.errors import DataError, MismatchError
from thack.models.batch import Batch
from thack.targets.crop import crop
from thack.targets.keys import row_keys
from thack.targets.select import select
from thack.targets.types import DenseTarget, FrozenHeadTarget, TopKTarget

from .conftest import VOCAB, FakeTeacher, make_sequences
from .test_import_numbers import Notes


def padded_teacher() -> FakeTeacher:
    teacher = FakeTeacher(vocab=VOCAB + 10)
    teacher.tokenizer.size = VOCAB
    teacher.table[:, VOCAB + 3] += 20.0  # a padded id that would be the most likely of all
    return teacher


@pytest.mark.parametrize("kind", ["dense", "top-k", "sampled"])
def test_padded_ids_are_in_no_record(settings: CacheSettings, kind: Any) -> None:
    teacher, sequences = padded_teacher(), make_sequences(6)
    settings = replace(settings, kind=kind, top_k=6, temperatures=())
    capture(settings, teacher=teacher, sequences=sequences)
    cache = Cache.open(settings.out)
    _, target = cache.targets(range(len(cache)))
    assert cache.meta.vocab_size == target.vocab_size == VOCAB
    logits = teacher(Batch.of(sequences))[:, :VOCAB]
    live = select(
        teacher(Batch.of(sequences)),
        cache.plan.layout.spec,
        width=VOCAB,
        seed=settings.seed,
        keys_N4=row_keys(sequences),
    )
    if isinstance(target, DenseTarget):
        torch.testing.assert_close(target.log_probs_NV, torch.log_softmax(logits, 1))
        return
    assert not isinstance(live, DenseTarget | FrozenHeadTarget) and not isinstance(target, FrozenHeadTarget)
    assert torch.equal(target.ids_NK, live.ids_NK) and int(target.ids_NK.max()) < VOCAB
    assert crop(target, VOCAB) is target, "a student of the tokenizer's width takes it as it is"
    if isinstance(target, TopKTarget):
        own = torch.log_softmax(logits, 1).gather(1, target.ids_NK.long())
        torch.testing.assert_close(target.log_probs_NK, own, atol=0.05, rtol=0)


def test_masks_of_the_lowest_float_are_no_mass(settings: CacheSettings) -> None:
    """A teacher that masks ids with finfo.min: they are −inf, live and cached, and the others keep their numbers."""
    teacher, sequences = FakeTeacher(), make_sequences(3)
    teacher.table[:, 4:] = torch.finfo(torch.float32).min / 2  # the position is added to it
    settings = replace(settings, kind="top-k", top_k=8)
    capture(settings, teacher=teacher, sequences=sequences)
    cache = Cache.open(settings.out)
    _, target = cache.targets(range(len(cache)))
    assert isinstance(target, TopKTarget)
    logits = teacher(Batch.of(sequences))
    live = select(logits, cache.plan.layout.spec, width=VOCAB)
    assert isinstance(live, TopKTarget)
    own = torch.log_softmax(logits, 1).gather(1, target.ids_NK.long())
    masked = own < -1000
    assert masked.any() and torch.isneginf(target.log_probs_NK[masked]).all()
    assert torch.isneginf(live.log_probs_NK[masked]).all()
    torch.testing.assert_close(target.log_probs_NK[~masked], own[~masked], atol=0.15, rtol=0)


def test_padded_ids_of_an_import_take_no_part_as_in_a_capture(tmp_path: Path) -> None:
    """Rows over a head of VOCAB + 10: the record is the distribution on the tokenizer's ids."""
    sequences, teacher = make_sequences(5), padded_teacher()
    teacher.table[:, VOCAB + 3] -= 18.0  # likely, and not all of the mass
    rows_NV = torch.log_softmax(teacher(Batch.of(sequences)).double(), 1)
    top = rows_NV.topk(12, dim=1)
    offsets = np.cumsum([0, *(len(s.response_ids) for s in sequences)])
    lines: list[dict[str, Any]] = []
    kept: dict[str, list[int]] = {}
    for s, first in zip(sequences, offsets, strict=False):
        places = range(first, first + len(s.response_ids))
        entries = [
            {str(int(i)): float(p) for i, p in zip(top.indices[n], top.values[n], strict=True)}
            | {str(int(label)): float(rows_NV[n, label])}
            for n, label in zip(places, s.response_ids, strict=True)
        ]
        kept[s.prompt_id] = list(places)
        ids = [*s.prompt_ids.tolist(), *s.response_ids.tolist()]
        prompt = len(s.prompt_ids)
        lines.append({"id": s.prompt_id, "prompt_token_ids": ids, "prompt_length": prompt})
        lines[-1]["prompt_logprobs"] = [None] * prompt + entries
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(item) + "\n" for item in lines))
    settings = ImportSettings(
        source=source, out=tmp_path / "cache", vocab_size=VOCAB + 10, tokenizer="sha256:t", tokenizer_size=VOCAB
    )
    notes = Notes()
    cache = Cache.open(import_cache(settings, notes))
    assert cache.meta.vocab_size == VOCAB and any(
        "ids that the tokenizer does not have" in note for note in notes.lines
    )
    read, target = cache.targets(range(len(cache)))
    assert isinstance(target, TopKTarget) and int(target.ids_NK.max()) < VOCAB
    expected_NV = torch.log_softmax(rows_NV[[n for s in read for n in kept[s.prompt_id]]][:, :VOCAB], 1)
    torch.testing.assert_close(
        target.log_probs_NK.double(), expected_NV.gather(1, target.ids_NK.long()), atol=0.06, rtol=0
    )
    lines[3]["prompt_token_ids"][0] = VOCAB + 1
    source.write_text("".join(json.dumps(item) + "\n" for item in lines))
    with pytest.raises(DataError, match=f"token {VOCAB + 1} is outside the vocabulary of {VOCAB}"):
        import_cache(replace(settings, out=tmp_path / "other"))
    with pytest.raises(MismatchError, match="cannot hold this tokenizer's ids"):
        import_cache(replace(settings, out=tmp_path / "third", vocab_size=VOCAB - 1))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ids_are_counted_without_padded_ones(k: int, tmp_path: Path) -> None:
    """Three entries for the first token and two for the second; one of the first's is padded."""
    rows = [None, {"5": -0.5, "7": -1.5, "60": -3.0}, {"6": -0.4, "7": -1.6}]
    row = {"prompt_token_ids": [1, 5, 6], "prompt_length": 1, "prompt_logprobs": rows}
    source, out = tmp_path / "rows.jsonl", tmp_path / "cache"
    settings = ImportSettings(
        source=source, out=out, vocab_size=VOCAB + 20, tokenizer="sha256:t", tokenizer_size=VOCAB, top_k=k
    )
    source.write_text(json.dumps(row))
    if k < 3:
        assert Cache.open(import_cache(settings)).meta.k == k
    else:
        with pytest.raises(DataError, match=r"rows\.jsonl: line 1, response token 0: 2 entries, expected 3\n.*padded"):
            import_cache(settings)
    row["prompt_logprobs"] = [None, {"5": -0.5, "60": -3.0}, rows[2]]
    source.write_text(json.dumps(row))
    if k == 2:
        with pytest.raises(DataError, match="response token 0: 1 entries, expected 2"):
            import_cache(replace(settings, out=tmp_path / "other"))


def test_a_tail_that_counts_padded_ids_is_refused_and_one_behind_an_end_is_empty() -> None:
    entries = [(np.array([3, VOCAB]), np.log([0.5, 0.2])), (np.array([4, 5]), np.log([0.5, 0.2]))]
    tail = RowTail("exact", np.log([0.3, 0.3]), {2.0: np.zeros(2)})
    s = replace(make_sequences(1)[0], response_ids=np.array([3, 4], np.int32))
    row = SourceRow(s, entries, "row 0", finish_reason="stop", tail=tail)
    with pytest.raises(DataError, match="row 0: holds padded ids, which its tail then counts"):
        without_padded(row, VOCAB)
    assert without_padded(row, VOCAB + 1) is row
    ended = completed(row, Ends(eos=0)).tail
    assert ended is not None
    assert np.isneginf([ended.at_one[2], ended.further[2.0][2]]).all() and len(ended.at_one) == 3
