"""Heads wider than the tokenizer: padded ids are in no record, however likely the teacher makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import CacheSettings
from thack.models.batch import Batch
from thack.targets.crop import crop
from thack.targets.keys import row_keys
from thack.targets.select import select
from thack.targets.types import DenseTarget, TopKTarget

from .conftest import VOCAB, FakeTeacher, make_sequences


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
    assert not isinstance(live, DenseTarget)
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
