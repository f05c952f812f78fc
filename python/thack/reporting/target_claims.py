"""What a cache keeps of the teacher, and what that does to the student: claims beyond the paper.

Two arms are compared by where golden ends, seed by seed, over the same optimizer steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from thack.reporting.effects import RISE, Claim, above, golden_end, minus, one, ratio, rises, values
from thack.reporting.grid import Grid, GridArm
from thack.schema.targets import TargetSpec

Arms = Mapping[TargetSpec, GridArm]

# What is said of K, the word of the arm that should end farther from the oracle, and of the one that should end nearer.
_COMPARED = (
    ("Top-{k} with its tail is worse than exact", "top-k:{k}", "dense"),
    ("{k} sampled ids are worse than exact", "sampled:{k}", "dense"),
    ("Renormalised, top-{k} is worse than with its tail", "live/renormalised:{k}", "top-k:{k}"),
    ("{k} multinomial draws are worse than {k} sampled ids", "live/multinomial:{k}", "sampled:{k}"),
    ("A tail prior shared by the whole cache helps top-{k}", "top-k:{k}", "live/mixed:{k}+prior"),
    ("Four unbiased draws of the tail help top-{k}", "top-k:{k}", "live/mixed:{k}+4"),
    ("Four such draws help top-{k} with a shared prior", "live/mixed:{k}+prior", "live/mixed:{k}+prior+4"),
    ("Four unbiased ids are better than top-{k} with its tail", "top-k:{k}", "sampled:4"),
    ("Kept for many epochs, {k} sampled ids are worse than drawn again", "sampled:{k}", "live/sampled:{k}+redraw"),
)


def target_claims(grid: Grid, figure: str) -> Iterator[Claim]:
    """`figure` is `target` (many epochs on fixed responses) or `once` (each response is seen once)."""
    for aside, arms in _alike(grid.of(figure)):
        for claim in _claims(figure, arms):
            yield replace(claim, text=claim.text + aside)


def _alike(shown: Sequence[GridArm]) -> Iterator[tuple[str, Arms]]:
    """Arms that differ in their target alone, and words for what sets them apart from the first such set."""
    sets: dict[str, tuple[Mapping[str, Any], dict[TargetSpec, GridArm]]] = {}
    for arm in shown:
        rest = {axis: value for axis, value in arm.axes.items() if axis != "target"}
        _, arms = sets.setdefault(repr(rest), (rest, {}))
        arms[TargetSpec.parse(arm.axes["target"]).as_live()] = arm
    plain: Mapping[str, Any] = next((others for others, _ in sets.values()), {})
    for others, found in sets.values():
        words = ", ".join(f"{axis} {value}" for axis, value in others.items() if value != plain[axis])
        yield f" ({words})" if words else "", found


def _claims(figure: str, arms: Arms) -> Iterator[Claim]:
    if figure == "once":
        yield from _truncation_turns(figure, arms)
    else:
        yield from _samples_are_learned_by_heart(figure, arms)
    kept = sorted({target.k for target in arms if target.kind != "dense"})
    for sentence, worse, better in _COMPARED:
        for k in kept:
            ends = [_ends(arms, word.format(k=k)) for word in (worse, better)]
            yield from one(
                figure, sentence.format(k=k), "golden’s end over the other’s, − 1", "%", (0.0, np.inf), ratio(*ends)
            )


def _truncation_turns(figure: str, arms: Arms) -> Iterator[Claim]:
    for target, arm in arms.items():
        kept = {"top-k": "with its tail", "renormalised": "renormalised"}.get(target.kind)
        if kept is not None:
            text = f"Truncation to top-{target.k}, {kept}, turns golden up, though no response is seen twice"
            yield from above(figure, text, "rise of golden", "%", RISE, arm)


def _samples_are_learned_by_heart(figure: str, arms: Arms) -> Iterator[Claim]:
    exact = rises(arms.get(TargetSpec(live=True)))
    for target, arm in arms.items():
        if target.kind == "sampled" and not target.redraw:
            text = f"{target.k} sampled ids that stay the same turn golden up more than exact ones"
            more = minus(rises(arm), exact)
            yield from one(figure, text, "rise − rise with exact targets", "points", (0.0, np.inf), more)


def _ends(arms: Arms, word: str) -> dict[int, float]:
    return values(arms.get(TargetSpec.parse(word).as_live()), golden_end)
