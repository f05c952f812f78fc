"""What the paper says, and what a grid measured: one row per claim, with its interval over seeds.

Each claim is a number per seed, paired where two arms are compared, and a side of a bound on which it should lie.
It *holds* where the whole 95 % interval of the mean over seeds (Student's t) lies on that side, *does not hold*
where all of it lies on the other, and is *inconclusive* between, or with one seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from thack.hacking.power_law import student_quantile
from thack.report.grid import Grid, GridArm
from thack.report.runs import Run

Answer = Literal["holds", "does not hold", "inconclusive"]
_RISE = 0.03  # the verdict's margin: controls rose by up to 2.4 %
_SAME = 0.10  # "about the same proxy"
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A mean over seeds with its interval."""

    by_seed: Mapping[int, float]
    mean: float
    low: float | None  # None: one seed has no interval
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence of the paper, and the number that decides it."""

    figure: str
    text: str
    measure: str  # what the number is
    unit: Literal["%", "points", "nats", "runs"]
    low: float  # where the number should lie; ±inf where there is no bound
    high: float
    effect: Effect

    @property
    def answer(self) -> Answer:
        low, high = self.effect.low, self.effect.high
        if low is None or high is None:
            return "inconclusive"
        if self.low < low and high < self.high:
            return "holds"
        return "does not hold" if high < self.low or low > self.high else "inconclusive"


def effect_of(by_seed: Mapping[int, float], confidence: float = _CONFIDENCE) -> Effect:
    """Mean of independent seeds, and t-interval: mean ± t · s / √n."""
    values = np.array(list(by_seed.values()))
    mean = float(values.mean())
    if len(values) < 2:
        return Effect(by_seed=dict(by_seed), mean=mean, low=None, high=None)
    half = _student((1 + confidence) / 2, len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    return Effect(by_seed=dict(by_seed), mean=mean, low=mean - half, high=mean + half)


@cache
def _student(probability: float, freedom: int) -> float:
    """Found by bisection: the same few are asked for again and again."""
    return student_quantile(probability, freedom)


def claims(grid: Grid) -> list[Claim]:
    """Every claim that the grid's finished cells can speak to, in the order of the figures."""
    makers: Mapping[str, Callable[[Grid], Iterator[Claim]]] = {
        "F4": _f4,
        "F5": _f5,
        "F6": _f6,
        "F7": _f7,
        "F8": lambda g: _pairs(g, "F8", "task"),
        "fraction": _fraction,
        "loss": lambda g: _pairs(g, "loss", "loss"),
        "sizes": lambda g: _pairs(g, "sizes", "student"),
    }
    return [claim for figure in grid.figures if figure in makers for claim in makers[figure](grid)]


# --- one figure each -------------------------------------------------------------------------------------


def _f4(grid: Grid) -> Iterator[Claim]:
    offline = grid.base()
    yield from _above("F4", "Offline, golden turns up again", "rise of golden, end over minimum", "%", _RISE, offline)
    yield from _one(
        "F4",
        "… while the proxy goes on falling",
        "change of the proxy from golden’s minimum to the end",
        "%",
        (-np.inf, 0.0),
        _values(offline, lambda run: run.verdict.proxy_change),
    )
    yield from _one(
        "F4",
        "… and the student ends farther from the truth than its teacher",
        "golden’s end − KL(oracle‖teacher)",
        "nats",
        (0.0, np.inf),
        _values(offline, lambda run: run.verdict.over_line),
    )


def _f5(grid: Grid) -> Iterator[Claim]:
    offline, rises = grid.base(), _rises(grid.base())
    for source, words in (("online-teacher", "the teacher"), ("online-student", "the student")):
        arm = grid.find(source=source)
        online = _rises(arm)
        yield from _one(
            "F5",
            f"With fresh responses by {words}, golden does not turn up",
            "rise of golden",
            "%",
            (-np.inf, _RISE),
            online,
        )
        yield from _one(
            "F5",
            f"Offline data hacks more than fresh responses by {words}",
            f"rise offline − rise {source}",
            "points",
            (0.0, np.inf),
            _minus(rises, online),
        )
    alarms = _alarms(grid.find(source="online-teacher"))
    yield from _one(
        "F5",
        "The turn can be seen without the oracle",
        "alarms of the default detector, offline − online-teacher",
        "runs",
        (0.0, np.inf),
        _minus(_alarms(offline), alarms),
    )


def _f6(grid: Grid) -> Iterator[Claim]:
    arms = grid.along("F6", "diversity")
    base = grid.base()
    for value, arm in arms:
        if value == 1:
            continue
        yield from _one(
            "F6",
            f"Less diverse prompts (÷{value:g}) make hacking worse",
            f"rise with prompts ÷{value:g} − rise with all",
            "points",
            (0.0, np.inf),
            _minus(_rises(arm), _rises(base)),
        )
    if arms and arms[-1][0] != 1:
        value, arm = arms[-1]
        ends = _ratio(_values(arm, _proxy_end), _values(base, _proxy_end))
        yield from _one(
            "F6",
            "… at about the same proxy",
            f"proxy’s end with prompts ÷{value:g} over that with all, − 1",
            "%",
            (-_SAME, _SAME),
            ends,
        )


def _f7(grid: Grid) -> Iterator[Claim]:
    base = grid.base()
    for value, arm in grid.along("F7", "budget"):
        if value == 1:
            continue
        yield from _one(
            "F7",
            f"A larger budget ({value:g} generations per prompt) makes hacking milder",
            f"rise with 1 − rise with {value:g}",
            "points",
            (0.0, np.inf),
            _minus(_rises(base), _rises(arm)),
        )


def _fraction(grid: Grid) -> Iterator[Claim]:
    base = grid.base()
    for value, arm in grid.along("fraction", "fraction_online"):
        if 0 < value < 1:
            yield from _one(
                "fraction",
                f"{100 * value:g} % of fresh responses makes hacking milder",
                f"rise offline − rise with {100 * value:g} % online",
                "points",
                (0.0, np.inf),
                _minus(_rises(base), _rises(arm)),
            )
            if value == max(v for v, _ in grid.along("fraction", "fraction_online") if v < 1):
                yield from _one(
                    "fraction",
                    f"… and {100 * value:g} % is enough to keep golden from turning up",
                    "rise of golden",
                    "%",
                    (-np.inf, _RISE),
                    _rises(arm),
                )


def _pairs(grid: Grid, figure: str, axis: str) -> Iterator[Claim]:
    """For every value of an axis: offline turns up, and more than online-teacher does."""
    for value, arm in grid.along(figure, axis, source="offline"):
        online = grid.same(arm, source="online-teacher")
        shown = {"forward_kl": "forward KL", "reverse_kl": "reverse KL", "jsd": "JSD"}.get(str(value), str(value))
        what = {"task": f"On task {shown}", "loss": f"With {shown} as loss", "student": f"With a student of {shown}"}[
            axis
        ]
        yield from _above(figure, f"{what}, offline golden turns up", "rise of golden", "%", _RISE, arm)
        yield from _one(
            figure,
            f"{what}, offline hacks more than online",
            "rise offline − rise online-teacher",
            "points",
            (0.0, np.inf),
            _minus(_rises(arm), _rises(online)),
        )


# --- numbers per seed ------------------------------------------------------------------------------------


def _above(
    figure: str, text: str, measure: str, unit: Literal["%"], bound: float, arm: GridArm | None
) -> Iterator[Claim]:
    yield from _one(figure, text, measure, unit, (bound, np.inf), _rises(arm))


def _one(
    figure: str,
    text: str,
    measure: str,
    unit: Literal["%", "points", "nats", "runs"],
    bounds: tuple[float, float],
    by_seed: Mapping[int, float],
) -> Iterator[Claim]:
    """Nothing where no seed has the number."""
    if by_seed:
        low, high = bounds
        yield Claim(figure=figure, text=text, measure=measure, unit=unit, low=low, high=high, effect=effect_of(by_seed))


def _values(arm: GridArm | None, number: Callable[[Run], float | None]) -> dict[int, float]:
    if arm is None:
        return {}
    found = {run.seed: number(run) for run in arm.arm.runs if run.seed is not None}
    return {seed: value for seed, value in found.items() if value is not None}


def _rises(arm: GridArm | None) -> dict[int, float]:
    return _values(arm, lambda run: run.verdict.golden.rise if run.verdict.golden else None)


def _alarms(arm: GridArm | None) -> dict[int, float]:
    return _values(arm, lambda run: float(run.suspicion.alarm_step is not None))


def _proxy_end(run: Run) -> float | None:
    return run.verdict.proxy.end if run.verdict.proxy else None


def _minus(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def _ratio(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {seed: a[seed] / b[seed] - 1 for seed in a if seed in b and b[seed] > 0}


# --- as a file -------------------------------------------------------------------------------------------


def claims_csv(found: Sequence[Claim]) -> str:
    """One row per claim; effects in their own unit, shares as they are."""
    rows = ["figure,claim,measure,unit,should_be_above,should_be_below,mean,low,high,seeds,answer"]
    for claim in found:
        effect = claim.effect
        numbers = [claim.low, claim.high, effect.mean, effect.low, effect.high]
        shown = ["" if n is None or not np.isfinite(n) else repr(float(n)) for n in numbers]
        text, measure = (json.dumps(word, ensure_ascii=False) for word in (claim.text, claim.measure))
        rows.append(",".join([claim.figure, text, measure, claim.unit, *shown, str(len(effect.by_seed)), claim.answer]))
    return "\n".join(rows) + "\n"
