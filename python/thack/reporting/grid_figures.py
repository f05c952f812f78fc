"""The paper's figures from a grid: F4 to F8 and the text's ablations, each a few panels over seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thack.reporting.claims import claims
from thack.reporting.colours import MUTED, OFFLINE, ONLINE_STUDENT, ONLINE_TEACHER, OTHERS, Colour, doses
from thack.reporting.effects import Claim, Effect, effect_of, golden_end, values
from thack.reporting.figures import add_margin_line, colours_of, curve, golden, new_figure, plane
from thack.reporting.grid import Grid, GridArm
from thack.reporting.runs import Arm
from thack.reporting.style import SMALL, styled
from thack.schema.targets import TargetSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE_WORDS = ("golden", "proxy", "baseline", "train_loss")  # whose numbers go beside each figure


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of a figure."""

    name: str  # of its file
    figure: Figure
    title: str
    caption: str


@dataclass(frozen=True, slots=True)
class Plate:
    """One figure of the paper: what it says there, the panels, and the arms behind them with their colours."""

    name: str
    title: str
    says: str  # the paper's claim, for someone who has not read it
    panels: tuple[Panel, ...]
    arms: tuple[Arm, ...]
    colours: tuple[Colour, ...]
    claims: tuple[Claim, ...]


TITLES = {
    "F4": (
        "F4 · The proxy–golden plane",
        "Train on responses that were written once, and watch both distances: the student comes ever closer to its "
        "teacher, and from some moment on ever farther from the truth.",
    ),
    "F5": (
        "F5 · Offline, online-teacher, online-student",
        "Fresh responses in every epoch prevent it, whether the teacher or the student writes them.",
    ),
    "F6": (
        "F6 · Diversity of prompts",
        "The same number of responses from fewer prompts: hacking grows, though the proxy ends about where it did.",
    ),
    "F7": ("F7 · Generation budget", "More responses per prompt, written once: hacking shrinks."),
    "F8": ("F8 · Other tasks", "The same on every task."),
    "fraction": ("Text · A share of fresh responses", "A small share of online data already helps."),
    "loss": ("Text · Losses", "Forward KL, reverse KL and Jensen–Shannon divergence: the finding survives."),
    "sizes": ("Text · Sizes", "Other pairs of teacher and student: the finding survives."),
    "target": (
        "Beyond the paper · What the cache keeps, for many epochs",
        "The same run on the same responses, from exact distributions, from the teacher’s K most likely tokens, and "
        "from unbiased samples. What was drawn once stays the same in every epoch, as in a cache.",
    ),
    "once": (
        "Beyond the paper · What the cache keeps, each response seen once",
        "Nothing can be learned by heart here: what golden loses, it loses by what the target leaves out.",
    ),
    "axes": ("Your own grid", "The product of axes that you asked for."),
}


def plates(grid: Grid, *, draw: bool = True) -> list[Plate]:
    """Every figure that has a finished run; without `draw`, their claims and numbers alone."""
    told = claims(grid)
    return [
        _plate(grid, name, [claim for claim in told if claim.figure == name], draw=draw)
        for name in grid.figures
        if name in TITLES and grid.of(name)
    ]


def _plate(grid: Grid, name: str, told: Sequence[Claim], *, draw: bool) -> Plate:
    shown = _ordered(grid, name)
    arms, colours = [arm.arm for arm in shown], _colours(grid, name, shown)
    own = {"F4": _f4, "F5": _f5, "F8": _by_task, "target": _by_bytes, "once": _by_bytes}
    make = own.get(name, _dose if _is_dose(name, shown) else _dots)
    panels = tuple(make(name, shown, colours)) if draw else ()
    title, says = TITLES[name]
    return Plate(name, title, says, panels, tuple(arms), tuple(colours), tuple(told))


def _ordered(grid: Grid, name: str) -> list[GridArm]:
    axis = {"F6": "diversity", "F7": "budget", "fraction": "fraction_online"}.get(name)
    return [arm for _, arm in grid.along(name, axis)] if axis else grid.of(name)


def _colours(grid: Grid, name: str, shown: Sequence[GridArm]) -> list[Colour]:
    """Roles keep their colours; along an axis the plain run is offline's and the others move away from it."""
    if _is_dose(name, shown):
        found = doses(len(shown), worse=name == "F6")
        ends_online = shown[-1].axes["source"] == "online-teacher"
        return [*found[:-1], ONLINE_TEACHER] if ends_online else found
    sources = {"offline": OFFLINE, "online-teacher": ONLINE_TEACHER}
    if name in ("F8", "loss", "sizes"):
        return [sources.get(arm.axes["source"], MUTED) for arm in shown]
    return colours_of([arm.arm for arm in shown])


def _is_dose(name: str, shown: Sequence[GridArm]) -> bool:
    return name in ("F6", "F7", "fraction") and len(shown) <= (4 if name == "F6" else 5)


def _f4(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> list[Panel]:
    arms = [arm.arm for arm in shown]
    caption = (
        "Thin lines are seeds, the thick one their median; training runs to the right. Ring: golden’s lowest point. "
        "Large marker: the end. Dashed: where a perfect copy of the teacher would be; "
        "band: range of the seeds’ teachers."
    )
    return [Panel("F4", plane(arms, colours), "Golden over proxy", caption)]


def _f5(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> list[Panel]:
    arms = [arm.arm for arm in shown]
    return [
        Panel(
            "F5-golden",
            golden(arms, colours, size=SMALL),
            "Golden: distance to the oracle",
            "Lower is better. Line and band: median and range of the seeds. Label: median rise from minimum to end.",
        ),
        Panel(
            "F5-proxy", curve(arms, "proxy", "proxy, nats per token", colours), "Proxy: distance to the teacher", _LOG
        ),
        Panel("F5-train", curve(arms, "train_loss", "training loss", colours), "Training loss", _LOG),
    ]


_LOG = "Both axes logarithmic: a power law is a straight line."


def _dose(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> list[Panel]:
    arms = [arm.arm for arm in shown]
    return [
        Panel(
            f"{name}-golden",
            golden(arms, colours, size=SMALL),
            "Golden: distance to the oracle",
            "Line and band: median and range of the seeds. Label: median rise.",
        ),
        Panel(f"{name}-proxy", curve(arms, "proxy", "proxy, nats per token", colours), "Proxy", _LOG),
        _rise_panel(name, shown, colours),
    ]


def _by_task(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> list[Panel]:
    panels = []
    for task in dict.fromkeys(arm.axes["task"] for arm in shown):
        mine = [(arm.arm, colour) for arm, colour in zip(shown, colours, strict=True) if arm.axes["task"] == task]
        figure = golden([arm for arm, _ in mine], [colour for _, colour in mine], size=SMALL)
        panels.append(Panel(f"{name}-{task}", figure, f"Golden, task {task}", "Orange: offline. Blue: online-teacher."))
    return panels


def _by_bytes(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> list[Panel]:
    return [
        Panel(
            f"{name}-bytes",
            ends_by_bytes(shown),
            "Where golden ends, over what the target costs",
            "Mean and 95 % interval over seeds (Student’s t). Bytes per token of the record that holds such a target. "
            "Dashed: exact distributions.",
        ),
        _rise_panel(name, shown, colours),
    ]


def _dots(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> list[Panel]:
    return [_rise_panel(name, shown, colours)]


def _rise_panel(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> Panel:
    return Panel(
        f"{name}-rise",
        rises([arm.arm for arm in shown], colours),
        "Rise of golden, end over minimum",
        "Dots: seeds. Bar: mean with its 95 % interval over seeds (Student’s t). Dashed: the margin of 3 %.",
    )


@styled()
def rises(arms: Sequence[Arm], colours: Sequence[Colour]) -> Figure:
    """One row per arm: every seed's rise, their mean and its interval."""
    height = max(SMALL[1] * 0.5, 0.34 * len(arms) + 0.8)
    figure, axes = new_figure((SMALL[0], min(height, 5.0)))
    for row, (arm, colour) in enumerate(zip(arms, colours, strict=True)):
        _rise_row(axes, row, arm, colour)
    labels = [textwrap.fill(arm.name, 22) for arm in arms]
    axes.set_yticks(range(len(arms)), labels, fontsize="x-small" if len(arms) > 8 else None)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel("rise of golden, %")
    axes.grid(visible=False, axis="y")
    add_margin_line(axes, 3.0)
    return figure


def _rise_row(axes: Axes, row: int, arm: Arm, colour: Colour) -> None:
    by_seed = {number: 100 * rise for number, rise in enumerate(arm.rises)}
    if not by_seed:
        return
    found = effect_of(by_seed)
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [row, row], color=colour.light, linewidth=2.4, solid_capstyle="round")
    axes.plot(list(by_seed.values()), [row] * len(by_seed), "o", color=colour.light, markersize=3, alpha=0.55)
    axes.plot(found.mean, row, "|", color=colour.light, markersize=13, markeredgewidth=2.2)


_KINDS = {
    "top-k": ("top-K + tail", OFFLINE),
    "renormalised": ("top-K renormalised", OTHERS[3]),
    "sampled": ("K sampled ids", ONLINE_TEACHER),
    "multinomial": ("K multinomial draws", OTHERS[4]),
    "mixed": ("top-K, tail by prior or draws", ONLINE_STUDENT),
}


@styled()
def ends_by_bytes(shown: Sequence[GridArm]) -> Figure:
    """Golden's end over bytes per token: a line per kind, a number beside each point for its K."""
    figure, axes = new_figure(SMALL)
    points: dict[str, list[tuple[int, int, Effect]]] = {}
    for arm in shown:
        target, found = TargetSpec.parse(arm.axes["target"]), values(arm, golden_end)
        if not found:
            continue
        if target.kind == "dense":
            axes.axhline(effect_of(found).mean, color=MUTED.light, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
        elif arm.bytes_per_token and not target.redraw:
            points.setdefault(target.kind, []).append((arm.bytes_per_token, target.k, effect_of(found)))
    for kind, placed in points.items():
        _kind_line(axes, kind, sorted(placed, key=lambda p: p[:2]))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("bytes per token")
    axes.set_ylabel("golden at the end, nats per token")
    if points:
        axes.legend(fontsize="x-small")
    return figure


def _kind_line(axes: Axes, kind: str, placed: Sequence[tuple[int, int, Effect]]) -> None:
    label, colour = _KINDS[kind]
    sizes, means = [p[0] for p in placed], [p[2].mean for p in placed]
    linestyle = "none" if kind == "mixed" else "-"
    axes.plot(sizes, means, color=colour.light, marker=colour.marker, linestyle=linestyle, markersize=4, label=label)
    for size, k, found in placed:
        if found.low is not None and found.high is not None:
            axes.plot([size, size], [found.low, found.high], color=colour.light, linewidth=1.2, alpha=0.6)
        axes.annotate(str(k), (size, found.mean), xytext=(4, 3), textcoords="offset points", fontsize="xx-small")
