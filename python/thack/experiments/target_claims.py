"""What a cache keeps of the teacher, and what that does to the student: claims beyond the paper.

Two arms are compared by where golden ends, seed by seed, over the same optimizer steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from thack.experiments.arms import FinishedArm, FinishedArms, differences
from thack.experiments.claim import RISE, claim, golden_ends, minus, ratio, rises
from thack.schema.experiment import ClaimResult, ExperimentArm
from thack.schema.targets import TargetSpec

Arms = Mapping[TargetSpec, FinishedArm]

# What is claimed for K, the target that should end farther from the oracle, and the one that should end nearer.
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


def target_claims(grid: FinishedArms, figure: str) -> Iterator[ClaimResult]:
    """`figure` is `target` (many epochs on fixed responses) or `once` (each response is seen once)."""
    for aside, arms in _alike(grid.in_figure(figure)):
        for found in _claims(figure, arms):
            yield replace(found, text=found.text + aside)


def _alike(shown: Sequence[FinishedArm]) -> Iterator[tuple[str, Arms]]:
    """Arms that differ in their target alone, and what sets them apart from the first such set.

    Of a target that one arm has from a cache and another from the live teacher, the first.
    """
    sets: dict[ExperimentArm, dict[TargetSpec, FinishedArm]] = {}
    for arm in shown:
        target, found = TargetSpec.parse(arm.axes.target), sets.setdefault(replace(arm.axes, target=""), {})
        if not target.live or target.as_live() not in found:
            found[target.as_live()] = arm
    for others, found in sets.items():
        yield differences(others, next(iter(sets))), found


def _claims(figure: str, arms: Arms) -> Iterator[ClaimResult]:
    yield from _truncation(figure, arms) if figure == "once" else _memorised_samples(figure, arms)
    for text, worse, better in _COMPARED:
        for k in sorted({target.k for target in arms if target.kind != "dense"}):
            ends = [golden_ends(arms.get(TargetSpec.parse(word.format(k=k)).as_live())) for word in (worse, better)]
            measure = "golden’s end over the other’s, − 1"
            yield from claim(figure, text.format(k=k), measure, "%", ratio(*ends), above=0.0)


def _truncation(figure: str, arms: Arms) -> Iterator[ClaimResult]:
    for target, arm in arms.items():
        tail = {"top-k": "with its tail", "renormalised": "renormalised"}.get(target.kind)
        if tail is not None:
            text = f"Truncation to top-{target.k}, {tail}, makes golden rise again, though no response is seen twice"
            yield from claim(figure, text, "rise of golden", "%", rises(arm), above=RISE)


def _memorised_samples(figure: str, arms: Arms) -> Iterator[ClaimResult]:
    exact = rises(arms.get(TargetSpec(live=True)))
    for target, arm in arms.items():
        if target.kind == "sampled" and not target.redraw:
            text = f"{target.k} sampled ids that stay the same make golden rise more than exact targets"
            more = minus(rises(arm), exact)
            yield from claim(figure, text, "rise − rise with exact targets", "points", more, above=0.0)
