"""What arXiv 2604.13010 says of policy gradients on responses that the student's start wrote once, as claims."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from thack.experiments.arms import FinishedArms
from thack.experiments.claim import RISE, claim, golden_ends, outcomes, ratio, rises
from thack.experiments.methods import ONE_NUMBER
from thack.schema.experiment import ClaimResult, ExperimentArm, FineTunedOn

_AS_GOOD = 0.03  # as far as a rise that counts
_FIGURE = "consistency"


def consistency_claims(grid: FinishedArms) -> Iterator[ClaimResult]:
    """From either start, offline against online; then one start against the other."""
    for writer in get_args(FineTunedOn):
        yield from _offline_against_online(grid, writer)
    by_oracle, by_teacher = (grid.like(_offline(grid, writer)) for writer in get_args(FineTunedOn))
    for name, ends in (("teacher", lambda arm: outcomes(arm, lambda one: one.proxy_end)), ("oracle", golden_ends)):
        text = f"Offline, a start that was fine-tuned on the teacher’s responses ends nearer to the {name}"
        measure = f"{'proxy' if name == 'teacher' else 'golden'}’s end from the oracle’s responses over that, − 1"
        yield from claim(_FIGURE, text, measure, "%", ratio(ends(by_oracle), ends(by_teacher)), above=0.0)


def _offline_against_online(grid: FinishedArms, writer: FineTunedOn) -> Iterator[ClaimResult]:
    start = f"From a start that was fine-tuned on the {writer}’s responses"
    offline = grid.like(_offline(grid, writer))
    online = grid.like(grid.base, source="online-student", method="policy-gradient", fine_tuned_on=writer)
    text = f"{start}, responses that it wrote once are as good as newly sampled ones"
    measure = "golden’s end by the offline policy gradient over that by the online one, − 1"
    ends = ratio(golden_ends(offline), golden_ends(online))
    yield from claim(_FIGURE, text, measure, "%", ends, below=_AS_GOOD)
    yield from claim(_FIGURE, "… and golden does not rise again", "rise of golden", "%", rises(offline), below=RISE)


def _offline(grid: FinishedArms, writer: FineTunedOn) -> ExperimentArm:
    return replace(grid.base, method="offline-policy-gradient", target=ONE_NUMBER, fine_tuned_on=writer)
