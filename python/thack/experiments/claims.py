"""What the paper says, and what a grid measured: one row per claim, with its interval over seeds.

Each claim is a number per seed, paired where two arms are compared, and a side of a bound on which it should be.
It *holds* if the whole 95 % interval of the mean over seeds (Student's t) is on that side, *does not hold* if all of it
is on the other, and is *inconclusive* between, or with one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from thack.experiments.arms import FinishedArm, FinishedArms, differences
from thack.experiments.claim import RISE, alarms, claim, golden_ends, minus, outcomes, ratio, rises
from thack.experiments.consistency_claims import consistency_claims
from thack.experiments.information import as_reason
from thack.experiments.loss_gaps import gap_claims
from thack.experiments.target_claims import target_claims
from thack.schema.experiment import ClaimResult, ExperimentArm
from thack.schema.targets import DIVERGENCE_NAMES

_SAME = 0.10  # "about the same proxy"
Claims = Iterator[ClaimResult]


def claims(arms: FinishedArms, figures: tuple[str, ...]) -> tuple[ClaimResult, ...]:
    """Every claim of these figures that the finished arms can decide, in the order of the figures.

    Args:
        arms: What the grid's finished runs came to.
        figures: Names such as F4 or target; one that makes no claim is passed over.
    """
    makers: Mapping[str, Callable[[FinishedArms], Claims]] = {
        "F4": _f4,
        "F5": _f5,
        "F6": _f6,
        "F7": _f7,
        "F8": partial(_pairs, figure="F8", axis="task"),
        "fraction": _fraction,
        "loss": partial(_pairs, figure="loss", axis="loss"),
        "sizes": partial(_pairs, figure="sizes", axis="student"),
        "target": partial(target_claims, figure="target"),
        "once": partial(target_claims, figure="once"),
        "lora": _lora,
        "tokenizers": gap_claims,
        "consistency": consistency_claims,
    }
    return tuple(found for figure in figures if figure in makers for found in makers[figure](arms))


def _f4(grid: FinishedArms) -> Claims:
    offline = grid.like(grid.base)
    text = "Offline, golden falls and rises again"
    yield from claim("F4", text, "rise of golden, end over minimum", "%", rises(offline), above=RISE)
    yield from claim(
        "F4",
        "… while the proxy keeps falling",
        "change of the proxy from golden’s minimum to the end",
        "%",
        outcomes(offline, lambda one: one.proxy_change),
        below=0.0,
    )
    yield from claim(
        "F4",
        "… and the student ends farther from the truth than its teacher",
        "golden’s end − KL(oracle‖teacher)",
        "nats",
        outcomes(offline, lambda one: one.over_baseline),
        above=0.0,
    )


def _f5(grid: FinishedArms) -> Claims:
    offline = grid.like(grid.base)
    for source, writer in (("online-teacher", "the teacher"), ("online-student", "the student")):
        online = rises(grid.like(grid.base, source=source))
        text = f"With newly sampled responses by {writer}, golden does not rise again"
        yield from claim("F5", text, "rise of golden", "%", online, below=RISE)
        text = f"Offline data hacks more than newly sampled responses by {writer}"
        more = minus(rises(offline), online)
        yield from claim("F5", text, f"rise offline − rise {source}", "points", more, above=0.0)
    yield from claim(
        "F5",
        "The onset can be seen without the oracle",
        "alarms of the default detector, offline − online-teacher",
        "runs",
        minus(alarms(offline), alarms(grid.like(grid.base, source="online-teacher"))),
        above=0.0,
    )


def _f6(grid: FinishedArms) -> Claims:
    """Every arm with fewer prompts against the one with all of them, and the fewest by the proxy too."""
    sets: dict[ExperimentArm, list[tuple[float, FinishedArm]]] = {}
    for value, arm in grid.along("F6", "diversity"):
        if value != 1:
            sets.setdefault(replace(arm.axes, diversity=1), []).append((value, arm))
    for axes, fewer in sets.items():
        plain, aside = grid.like(axes), differences(axes, grid.base)
        reason = as_reason(grid.information.get(axes.task))
        for value, arm in fewer:
            text = f"Less diverse prompts (÷{value:g}) make hacking worse{aside}"
            measure = f"rise with prompts ÷{value:g} − rise with all"
            more = minus(rises(arm), rises(plain))
            yield from claim("F6", text, measure, "points", more, above=0.0, reason=reason)
        value, arm = fewer[-1]
        measure = f"proxy’s end with prompts ÷{value:g} over that with all, − 1"
        yield from _same_proxy("F6", arm, plain, measure, aside)


def _f7(grid: FinishedArms) -> Claims:
    for value, arm in grid.along("F7", "budget"):
        if value != 1:
            plain = grid.like(arm.axes, budget=1)
            text = f"A larger budget ({value:g} generations per prompt) makes hacking milder{_aside(grid, plain)}"
            less = minus(rises(plain), rises(arm))
            yield from claim("F7", text, f"rise with 1 − rise with {value:g}", "points", less, above=0.0)


def _lora(grid: FinishedArms) -> Claims:
    """Every adapter against all weights: how far golden rises, where it ends, and whether the proxy ends there too."""
    for value, arm in grid.along("lora", "lora_rank"):
        if value == 0:
            continue
        plain = grid.like(arm.axes, lora_rank=0)
        aside = differences(replace(arm.axes, lora_rank=grid.base.lora_rank), grid.base)
        text, less = f"An adapter of rank {value:g} makes hacking milder{aside}", minus(rises(plain), rises(arm))
        yield from claim("lora", text, f"rise with all weights − rise with rank {value:g}", "points", less, above=0.0)
        ends = ratio(golden_ends(plain), golden_ends(arm))
        measure = f"golden’s end with all weights over that with rank {value:g}, − 1"
        yield from claim("lora", f"… and ends nearer to the oracle{aside}", measure, "%", ends, above=0.0)
        measure = f"proxy’s end with rank {value:g} over that with all weights, − 1"
        yield from _same_proxy("lora", arm, plain, measure, aside)


def _same_proxy(figure: str, arm: FinishedArm, plain: FinishedArm | None, measure: str, aside: str) -> Claims:
    ends = (outcomes(one, lambda outcome: outcome.proxy_end) for one in (arm, plain))
    text = f"… at about the same proxy{aside}"
    yield from claim(figure, text, measure, "%", ratio(*ends), above=-_SAME, below=_SAME)


def _fraction(grid: FinishedArms) -> Claims:
    mixtures = [(value, arm) for value, arm in grid.along("fraction", "fraction_online") if value < 1]
    for value, arm in mixtures:
        if value == 0:
            continue
        plain, share = grid.offline_like(arm.axes), f"{100 * value:g} %"
        aside = _aside(grid, plain)
        text = f"{share} of newly sampled responses makes hacking milder{aside}"
        less = minus(rises(plain), rises(arm))
        yield from claim("fraction", text, f"rise offline − rise with {share} online", "points", less, above=0.0)
        if value == mixtures[-1][0]:
            text = f"… and {share} is enough to keep golden from rising again{aside}"
            yield from claim("fraction", text, "rise of golden", "%", rises(arm), below=RISE)


def _pairs(grid: FinishedArms, figure: str, axis: str) -> Claims:
    """For every value of an axis: golden rises again offline, and more than with online-teacher."""
    for arm in grid.in_figure(figure, source="offline"):
        online = grid.like(arm.axes, source="online-teacher")
        what = _what(arm.axes, axis)
        usual = {name: getattr(grid.base, name) for name in (axis, "teacher")}
        what += differences(replace(arm.axes, **usual), grid.base)
        text = f"{what}, golden falls and rises again offline"
        yield from claim(figure, text, "rise of golden", "%", rises(arm), above=RISE)
        text, more = f"{what}, offline hacks more than online", minus(rises(arm), rises(online))
        yield from claim(figure, text, "rise offline − rise online-teacher", "points", more, above=0.0)


def _what(axes: ExperimentArm, axis: str) -> str:
    if axis == "task":
        return f"On task {axes.task}"
    if axis == "loss":
        return f"With {DIVERGENCE_NAMES[axes.loss]} as loss"
    return f"From a teacher of {axes.teacher} to a student of {axes.student}"


def _aside(grid: FinishedArms, plain: FinishedArm | None) -> str:
    """What else sets two compared arms apart from the plain offline run; `plain` is the second of the two."""
    return differences(plain.axes, grid.base) if plain else ""
