"""Trap 10 on caches: a shift by one token is found before the first step."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from thack.cache.format.layout import RecordLayout
from thack.cache.format.records import decode, encode
from thack.data.sequence import TokenSequence
from thack.errors import CacheError
from thack.schema.targets import TargetSpec
from thack.targets.select import select
from thack.targets.types import DenseTarget, SampledTarget, Target, TopKTarget
from thack.training.alignment import check_realised, check_shifts

V = 50


def aligned(seed: int = 0, sharpness: float = 4.0) -> tuple[list[TokenSequence], torch.Tensor]:
    """Sequences whose tokens were drawn from the rows, as a teacher's own responses are."""
    generator = torch.Generator().manual_seed(seed)
    sequences, rows = [], []
    for i in range(60):
        log_p = torch.log_softmax(torch.randn(5 + i % 4, V, generator=generator) * sharpness, 1)
        drawn = torch.multinomial(log_p.exp(), 1, generator=generator).flatten().numpy().astype(np.int32)
        sequences.append(
            TokenSequence(example=i, prompt_id=str(i), prompt_ids=np.ones(2, np.int32), response_ids=drawn)
        )
        rows.append(log_p)
    return sequences, torch.cat(rows)


def as_target(kind: str, log_p: torch.Tensor, k: int = 8) -> Target:
    if kind == "dense":
        return DenseTarget(log_probs_NV=log_p)
    values, ids = log_p.topk(k, dim=1)
    ids, order = ids.sort(dim=1)
    values = values.gather(1, order)
    if kind == "top-k":
        return TopKTarget(ids_NK=ids.int(), log_probs_NK=values, log_tail_N=torch.zeros(len(ids)), vocab_size=V)
    rows = torch.ones(len(ids))
    return SampledTarget(
        ids_NK=ids.int(), weights_NK=values.exp(), counts_N=rows.int() * k, tau_N=rows, entropy_N=rows, vocab_size=V
    )


@pytest.mark.parametrize("kind", ["dense", "top-k", "sampled"])
@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_pitfall_10_shift_zero_must_win(kind: str, shift: int) -> None:
    sequences, log_p = aligned()
    target = as_target(kind, torch.roll(log_p, -shift, dims=0))  # row t now predicts token t + shift
    if shift == 0:
        assert check_shifts(sequences, target) is None
    else:
        with pytest.raises(CacheError, match=rf"off by {re.escape(format(shift, '+d'))} token[\s\S]*shift \+0"):
            check_shifts(sequences, target)


def test_an_unsure_teacher_is_not_accused() -> None:
    for seed in range(20):
        sequences, log_p = aligned(seed, sharpness=0.02)
        check_shifts(sequences, as_target("dense", log_p))


def test_too_few_hits_are_said() -> None:
    sequences, log_p = aligned(sharpness=0.1)
    said = check_shifts(sequences[:4], as_target("top-k", log_p[: sum(len(s.response_ids) for s in sequences[:4])], 1))
    assert said is not None and "skipped" in said


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_captured_teacher_may_repeat_what_it_has_read(shift: int) -> None:
    """Untrained models with a tied head do. One token later is no repetition."""
    sequences, log_p = aligned()
    target = as_target("dense", torch.roll(log_p, -shift, dims=0))
    if shift == -1:
        said = check_shifts(sequences, target, may_echo=True)
        assert said is not None and "the token it has just read" in said
    else:
        with pytest.raises(CacheError, match=r"off by \+1 token"):
            check_shifts(sequences, target, may_echo=True)


SPECS = [
    TargetSpec(),
    TargetSpec(kind="top-k", k=8),
    TargetSpec(kind="top-k", k=40, value_bits=7),
    TargetSpec(kind="sampled", k=8),
]


def stored(spec: TargetSpec, log_p: torch.Tensor, labels_N: torch.Tensor) -> Target:
    """What a capture of these rows gives back, with all that its records round."""
    keys_N4 = torch.tensor([[0, n, 0, 0] for n in range(len(log_p))])
    layout = RecordLayout(spec=spec, vocab_size=V)
    target = select(log_p, spec, width=V, seed=0, keys_N4=keys_N4, labels_N=labels_N)
    records = bytearray(encode(target, layout, seed=0, keys_N4=keys_N4))
    assert target.realised_logprob_N is not None
    return decode(records, layout, bytearray(target.realised_logprob_N.numpy().tobytes()))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("sharpness", [0.1, 2.0, 12.0])
def test_log_probs_beside_the_rows_are_those_of_the_rows(spec: TargetSpec, sharpness: float) -> None:
    for seed in range(5):
        sequences, log_p = aligned(seed, sharpness)
        labels_N = torch.from_numpy(np.concatenate([s.response_ids for s in sequences]).astype(np.int64))
        check_realised(sequences, stored(spec, log_p, labels_N))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("shift", [-1, 1])
def test_rows_that_moved_away_from_their_log_probs_are_found(spec: TargetSpec, shift: int) -> None:
    """Also where statistics would decide nothing: a dozen tokens, or an echoing teacher."""
    sequences, log_p = aligned(sharpness=2.0)
    labels_N = torch.from_numpy(np.concatenate([s.response_ids for s in sequences]).astype(np.int64))
    right = stored(spec, log_p, labels_N)
    assert right.realised_logprob_N is not None
    moved = right.map(lambda tensor: torch.roll(tensor, -shift, dims=0))
    wrong = dataclasses.replace(moved, realised_logprob_N=right.realised_logprob_N)
    with pytest.raises(CacheError, match=r"kept beside them are others[\s\S]*shift \+0"):
        check_realised(sequences, wrong)


def test_unknown_log_probs_say_nothing() -> None:
    sequences, log_p = aligned()
    labels_N = torch.zeros(len(log_p), dtype=torch.int64)
    target = stored(TargetSpec(), log_p, labels_N)
    check_realised(sequences, dataclasses.replace(target, realised_logprob_N=torch.full((len(log_p),), torch.nan)))
    check_realised(sequences, dataclasses.replace(target, realised_logprob_N=None))
    with pytest.raises(CacheError):
        check_realised(sequences, target)  # of token 0, which is not theirs
