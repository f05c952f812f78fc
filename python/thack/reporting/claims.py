"""What the paper says, and what a grid measured: one row per claim, with its interval over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from thack.reporting.effects import RISE, Claim, above, alarms, minus, one, proxy_end, ratio, rises, values
from thack.reporting.grid import Grid, GridArm
from thack.reporting.target_claims import target_claims

_SAME = 0.10  # "about the same proxy"


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
        "target": lambda g: target_claims(g, "target"),
        "once": lambda g: target_claims(g, "once"),
    }
    return [claim for figure in grid.figures if figure in makers for claim in makers[figure](grid)]


# --- one figure each -------------------------------------------------------------------------------------


def _f4(grid: Grid) -> Iterator[Claim]:
    offline = grid.base()
    yield from above("F4", "Offline, golden turns up again", "rise of golden, end over minimum", "%", RISE, offline)
    yield from one(
        "F4",
        "… while the proxy goes on falling",
        "change of the proxy from golden’s minimum to the end",
        "%",
        (-np.inf, 0.0),
        values(offline, lambda run: run.verdict.proxy_change),
    )
    yield from one(
        "F4",
        "… and the student ends farther from the truth than its teacher",
        "golden’s end − KL(oracle‖teacher)",
        "nats",
        (0.0, np.inf),
        values(offline, lambda run: run.verdict.over_baseline),
    )


def _f5(grid: Grid) -> Iterator[Claim]:
    offline = grid.base()
    for source, words in (("online-teacher", "the teacher"), ("online-student", "the student")):
        arm = grid.find(source=source)
        online = rises(arm)
        yield from one(
            "F5",
            f"With fresh responses by {words}, golden does not turn up",
            "rise of golden",
            "%",
            (-np.inf, RISE),
            online,
        )
        yield from one(
            "F5",
            f"Offline data hacks more than fresh responses by {words}",
            f"rise offline − rise {source}",
            "points",
            (0.0, np.inf),
            minus(rises(offline), online),
        )
    online_alarms = alarms(grid.find(source="online-teacher"))
    yield from one(
        "F5",
        "The turn can be seen without the oracle",
        "alarms of the default detector, offline − online-teacher",
        "runs",
        (0.0, np.inf),
        minus(alarms(offline), online_alarms),
    )


def _f6(grid: Grid) -> Iterator[Claim]:
    arms = [(value, arm, grid.same(arm, diversity=1)) for value, arm in grid.along("F6", "diversity") if value != 1]
    for value, arm, plain in arms:
        yield from one(
            "F6",
            f"Less diverse prompts (÷{value:g}) make hacking worse{_aside(grid, plain)}",
            f"rise with prompts ÷{value:g} − rise with all",
            "points",
            (0.0, np.inf),
            minus(rises(arm), rises(plain)),
        )
    for value, arm, plain in arms:
        if value != arms[-1][0]:
            continue
        ends = ratio(values(arm, proxy_end), values(plain, proxy_end))
        yield from one(
            "F6",
            f"… at about the same proxy{_aside(grid, plain)}",
            f"proxy’s end with prompts ÷{value:g} over that with all, − 1",
            "%",
            (-_SAME, _SAME),
            ends,
        )


def _f7(grid: Grid) -> Iterator[Claim]:
    for value, arm in grid.along("F7", "budget"):
        if value == 1:
            continue
        plain = grid.same(arm, budget=1)
        yield from one(
            "F7",
            f"A larger budget ({value:g} generations per prompt) makes hacking milder{_aside(grid, plain)}",
            f"rise with 1 − rise with {value:g}",
            "points",
            (0.0, np.inf),
            minus(rises(plain), rises(arm)),
        )


def _aside(grid: Grid, plain: GridArm | None) -> str:
    """What else sets two compared arms apart from the plain offline run; each is compared with its own twin."""
    words = [
        f"{axis} {value}" for axis, value in (plain.axes if plain else {}).items() if value != grid.base_axes[axis]
    ]
    return f" ({', '.join(words)})" if words else ""


def _fraction(grid: Grid) -> Iterator[Claim]:
    for value, arm in grid.along("fraction", "fraction_online"):
        if 0 < value < 1:
            plain = grid.offline_of(arm)
            yield from one(
                "fraction",
                f"{100 * value:g} % of fresh responses makes hacking milder{_aside(grid, plain)}",
                f"rise offline − rise with {100 * value:g} % online",
                "points",
                (0.0, np.inf),
                minus(rises(plain), rises(arm)),
            )
            if value == max(v for v, _ in grid.along("fraction", "fraction_online") if v < 1):
                yield from one(
                    "fraction",
                    f"… and {100 * value:g} % is enough to keep golden from turning up{_aside(grid, plain)}",
                    "rise of golden",
                    "%",
                    (-np.inf, RISE),
                    rises(arm),
                )


def _pairs(grid: Grid, figure: str, axis: str) -> Iterator[Claim]:
    """For every value of an axis: offline turns up, and more than online-teacher does."""
    for value, arm in grid.along(figure, axis, source="offline"):
        online = grid.same(arm, source="online-teacher")
        shown = {"forward_kl": "forward KL", "reverse_kl": "reverse KL", "jsd": "JSD"}.get(str(value), str(value))
        sizes = f"From a teacher of {arm.axes['teacher']} to a student of {shown}"
        what = {"task": f"On task {shown}", "loss": f"With {shown} as loss", "student": sizes}[axis]
        others = {name: value for name, value in grid.base_axes.items() if name in (axis, "teacher")}
        what += _aside(grid, replace(arm, axes={**arm.axes, **others}))
        yield from above(figure, f"{what}, offline golden turns up", "rise of golden", "%", RISE, arm)
        yield from one(
            figure,
            f"{what}, offline hacks more than online",
            "rise offline − rise online-teacher",
            "points",
            (0.0, np.inf),
            minus(rises(arm), rises(online)),
        )
