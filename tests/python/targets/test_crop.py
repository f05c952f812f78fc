"""Pitfall 13: vocabularies of different size are compared under one stated rule."""

from __future__ import annotations

import pytest
import torch

from thack.errors import MismatchError
from thack.losses import forward_kl
from thack.targets.crop import crop
from thack.targets.types import DenseTarget, TopKTarget
from thack.targets.vocabulary import common_width, log_probs


def test_dense_targets_are_cut_and_renormalised_not_padded() -> None:
    logits = torch.randn(4, 12)
    target = DenseTarget(log_probs_NV=torch.log_softmax(logits, 1))
    narrow = crop(target, 9)
    assert isinstance(narrow, DenseTarget)
    torch.testing.assert_close(narrow.log_probs_NV, log_probs(logits, 9))
    assert forward_kl(logits[:, :9], narrow).abs().max() < 1e-6  # the teacher itself, cut, is at distance 0
    assert crop(target, 12) is target


def test_kept_ids_beyond_the_student_are_refused() -> None:
    def top_k(highest: int) -> TopKTarget:
        ids = torch.tensor([[1, 3], [0, highest]], dtype=torch.int32)
        return TopKTarget(
            ids_NK=ids, log_probs_NK=torch.full((2, 2), -1.0), log_tail_N=torch.full((2,), -1.3), vocab_size=12
        )

    assert crop(top_k(8), 9).vocab_size == 9
    with pytest.raises(MismatchError, match=r"cached id   9[\s\S]*9 rows"):
        crop(top_k(9), 9)  # pitfall 14: an id equal to the width is one too high


def test_a_width_below_the_tokenizer_is_refused() -> None:
    assert common_width(151_669, student=151_936, teacher=152_064) == 151_669
    assert common_width(151_669, student=151_936, teacher=151_936) == 151_669
    assert common_width(1024, student=1024) == 1024
    with pytest.raises(MismatchError, match=r"student   1,000 rows[\s\S]*1,024 tokens"):
        common_width(1024, student=1000, teacher=1024)
