"""Each loss at its best learning rate, chosen by the other seeds; and what follows for cells."""

from __future__ import annotations

from typing import Any

import pytest

from thack.experiments.arms import FinishedArms
from thack.experiments.claims import claims
from thack.experiments.loss_gaps import loss_gaps, tuned_losses
from thack.schema.experiment import CellResult

from .outcomes import BASE, cells_of, outcome


def ends(gaps: dict[int, float], **axes: Any) -> list[CellResult]:
    return cells_of(["tokenizers"], {seed: outcome(gap=gap) for seed, gap in gaps.items()}, **axes)


def grid(*arms: list[CellResult]) -> FinishedArms:
    return FinishedArms.of(BASE, [cell for arm in arms for cell in arm])


def test_no_seed_chooses_its_own_rate() -> None:
    """Rate .002 is best for seed 0 alone: the others choose .001 for it, and take .002 themselves by its luck."""
    arms = grid(
        ends({0: 0.50, 1: 0.40, 2: 0.40}, tokenizer="512", cross_tokenizer="cell"),
        ends({0: 0.10, 1: 0.45, 2: 0.60}, tokenizer="512", cross_tokenizer="cell", learning_rate=0.002),
    )
    (found,) = tuned_losses(arms.in_figure("tokenizers"), 0.001)
    assert found.rates == {0: 0.001, 1: 0.002, 2: 0.002}
    assert found.gaps == {0: 0.50, 1: 0.45, 2: 0.60}
    (alone,) = tuned_losses(grid(ends({0: 0.5}), ends({0: 0.1}, learning_rate=0.002)).in_figure("tokenizers"), 0.001)
    assert (alone.rates, alone.gaps) == ({0: 0.002}, {0: 0.1})


def test_seeds_that_lack_a_rate_are_left_out() -> None:
    arms = grid(ends({0: 0.5, 1: 0.5}), ends({0: 0.4}, learning_rate=0.002))
    (found,) = tuned_losses(arms.in_figure("tokenizers"), 0.001)
    assert [*found.gaps] == [0]


ALL = (
    ends({0: 0.50, 1: 0.52}, tokenizer="512", method="sft"),
    ends({0: 0.49, 1: 0.51}, tokenizer="512", cross_tokenizer="alm"),
    ends({0: 0.40, 1: 0.421}, tokenizer="512", cross_tokenizer="cell-next", target="sampled:16"),
    ends({0: 0.36, 1: 0.36}, method="sft"),
    ends({0: 0.22, 1: 0.21}, target="sampled:16"),
)


def test_the_table() -> None:
    found = {(one.tokenizer, one.loss, one.target): one for one in loss_gaps(grid(*ALL), 0.001)}
    assert [*found] == [
        ("512", "the cross-entropy alone", ""),
        ("512", "ALM + cross-entropy", ""),
        ("512", "cells with the next row", "16 sampled ids"),
        ("", "the cross-entropy alone", ""),
        ("", "forward KL", "16 sampled ids"),
    ]
    assert found["512", "the cross-entropy alone", ""].gain is None
    cells = found["512", "cells with the next row", "16 sampled ids"]
    assert cells.gain is not None and cells.gain.mean == pytest.approx(0.0995)
    assert cells.rates == (0.001, 0.001) and cells.gap.mean == pytest.approx(0.4105)


def test_claims_are_paired_by_seed() -> None:
    found = {one.text: one for one in claims(grid(*ALL), ("tokenizers",))}
    nearer = found["Tokenizer 512: cells from 16 sampled ids end nearer to the teacher than ALM + cross-entropy"]
    assert nearer.effect.values == pytest.approx((0.09, 0.089)) and nearer.answer == "holds"
    half = found["Tokenizer 512: … and win half of what forward KL wins with the teacher’s tokenizer"]
    assert half.effect.values == pytest.approx((0.10 / 0.14, 0.099 / 0.15))
    assert len(found) == 3
