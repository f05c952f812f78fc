"""Students with several tokenizers and losses: each loss at its best learning rate, and what is claimed of cells.

    gap = E[log P_teacher − log P_student] of the teacher's held-out responses, nats per byte

Per byte, since students with several tokenizers have no token in common. Every loss is run at the same learning rates.
A seed's rate is the one with the lowest mean over the other seeds, so that no seed chooses for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thack.experiments.arms import FinishedArm, FinishedArms
from thack.experiments.claim import BySeed, claim, minus, outcomes, ratio
from thack.reporting.effects import effect_of
from thack.schema.experiment import ClaimResult, ExperimentArm, LossGap
from thack.schema.targets import TargetSpec

_PUBLISHED = {"alm": "ALM", "uld": "ULD", "uld-common": "ULD where tokens begin together", "gold": "GOLD"}
_CELLS = {"cell": "cells", "cell-next": "cells with the next row"}
_OURS = ("cell-next", "sampled:16")  # what is compared with the others


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedLoss:
    """One loss of one student: its gaps at the rates that were chosen, by seed; `axes` without a learning rate."""

    axes: ExperimentArm
    gaps: BySeed
    rates: BySeed


def tuned_losses(shown: Sequence[FinishedArm], base_rate: float = 0.0) -> list[TunedLoss]:
    """Every loss at its best learning rate.

    Args:
        shown: finished arms, in their order.
        base_rate: the experiment's learning rate, which arms without one have.
    """
    found: dict[ExperimentArm, dict[float, BySeed]] = {}
    for arm in shown:
        if gaps := outcomes(arm, lambda one: one.gap):
            by_rate = found.setdefault(replace(arm.axes, learning_rate=0.0), {})
            by_rate[arm.axes.learning_rate or base_rate] = gaps
    return [_tuned(axes, by_rate) for axes, by_rate in found.items()]


def _tuned(axes: ExperimentArm, by_rate: Mapping[float, BySeed]) -> TunedLoss:
    """Of the seeds that have run at every rate."""
    seeds = sorted(set.intersection(*({*gaps} for gaps in by_rate.values())))
    rates = {seed: _best(by_rate, [other for other in seeds if other != seed] or [seed]) for seed in seeds}
    return TunedLoss(axes=axes, rates=rates, gaps={seed: by_rate[rate][seed] for seed, rate in rates.items()})


def _best(by_rate: Mapping[float, BySeed], seeds: Sequence[int]) -> float:
    return min(by_rate, key=lambda rate: float(np.mean([by_rate[rate][seed] for seed in seeds])))


def loss_gaps(grid: FinishedArms, base_rate: float) -> tuple[LossGap, ...]:
    """The table of figure tokenizers."""
    tuned = [one for one in tuned_losses(grid.in_figure("tokenizers"), base_rate) if one.gaps]
    alone = {one.axes.tokenizer: one.gaps for one in tuned if one.axes.method == "sft"}
    order = list(dict.fromkeys(one.axes.tokenizer for one in tuned))
    found = []
    for one in sorted(tuned, key=lambda one: order.index(one.axes.tokenizer)):
        is_alone = one.axes.method == "sft"
        gain = {} if is_alone else minus(alone.get(one.axes.tokenizer, {}), one.gaps)
        found.append(
            LossGap(
                tokenizer=one.axes.tokenizer,
                loss=_label(one.axes),
                target="" if is_alone or one.axes.cross_tokenizer == "alm" else TargetSpec.parse(one.axes.target).label,
                rates=tuple(one.rates.values()),
                gap=effect_of(one.gaps),
                gain=effect_of(gain) if gain else None,
            )
        )
    return tuple(found)


def gap_claims(grid: FinishedArms) -> Iterator[ClaimResult]:
    """Cells against every other loss, tokenizer by tokenizer, and against what one tokenizer would win."""
    tuned = tuned_losses(grid.in_figure("tokenizers"))
    for tokenizer in dict.fromkeys(one.axes.tokenizer for one in tuned if one.axes.tokenizer):
        own = [one for one in tuned if one.axes.tokenizer == tokenizer]
        cells = next((one.gaps for one in own if (one.axes.cross_tokenizer, one.axes.target) == _OURS), {})
        for other in own:
            if other.axes.method == "sft" or other.axes.cross_tokenizer in _PUBLISHED:
                name = _label(other.axes)
                text = f"Tokenizer {tokenizer}: cells from 16 sampled ids end nearer to the teacher than {name}"
                measure = f"gap of {name} − gap of cells, per byte"
                yield from claim("tokenizers", text, measure, "nats", minus(other.gaps, cells), above=0.0)
        same = [one for one in tuned if not one.axes.tokenizer]
        gains = [minus(_alone(found), ours) for found, ours in ((own, cells), (same, _of(same, _OURS[1])))]
        text = f"Tokenizer {tokenizer}: … and win half of what forward KL wins with the teacher’s tokenizer"
        measure = "gain over the cross-entropy, over that of forward KL with one tokenizer"
        shares = {seed: value + 1 for seed, value in ratio(*gains).items()}
        yield from claim("tokenizers", text, measure, "%", shares, above=0.5)


def _alone(found: Sequence[TunedLoss]) -> BySeed:
    return next((one.gaps for one in found if one.axes.method == "sft"), {})


def _of(found: Sequence[TunedLoss], target: str) -> BySeed:
    return next((one.gaps for one in found if one.axes.method != "sft" and one.axes.target == target), {})


def _label(axes: ExperimentArm) -> str:
    if axes.method == "sft":
        return "the cross-entropy alone"
    if not axes.tokenizer:
        return "forward KL"
    loss = axes.cross_tokenizer
    return f"{_PUBLISHED[loss]} + cross-entropy" if loss in _PUBLISHED else _CELLS[loss]
