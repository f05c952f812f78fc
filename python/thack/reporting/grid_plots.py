"""The plots that only a grid has: every arm's rise, where golden ends over what a target costs, gaps of losses."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from thack.reporting.colours import MUTED, OFFLINE, ONLINE_STUDENT, ONLINE_TEACHER, OTHERS, Colour
from thack.reporting.drawing import DASHED, PATCH, few_ticks, new_figure, shown_reach
from thack.reporting.effects import effect_of
from thack.reporting.grid import GridArm
from thack.reporting.inputs import ArmRuns, unit
from thack.reporting.style import SMALL, WIDE, styled
from thack.reporting.text import one_line
from thack.schema.experiment import Effect, LossGap
from thack.schema.targets import TargetSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_COUNTS = 3.0  # %: from where on a rise counts


@styled()
def rises(arms: Sequence[ArmRuns], colours: Sequence[Colour]) -> Figure:
    """One row per arm: every seed's rise, their mean and its interval."""
    effects = [effect_of(found) if (found := _in_percent(arm)) else None for arm in arms]
    figure, axes = _rows([arm.name for arm in arms], effects, colours, "rise of golden, %", least=5 * _COUNTS)
    axes.axvline(_COUNTS, color=MUTED.light, linestyle=DASHED, linewidth=1, zorder=0)
    return figure


def _in_percent(arm: ArmRuns) -> dict[int, float]:
    return {number: 100 * rise for number, rise in enumerate(arm.rises)}


@styled()
def gaps(found: Sequence[LossGap]) -> Figure:
    """One row per loss of one student: every seed's gap to the teacher, their mean and its interval."""
    colours = [ONLINE_TEACHER if "cells" in one.loss else OFFLINE if "+" in one.loss else MUTED for one in found]
    names = [f"{one.loss}, {one.target}" if one.target else one.loss for one in found]
    return _rows(names, [one.gap for one in found], colours, "gap to the teacher, nats per byte")[0]


def _rows(
    names: Sequence[str], effects: Sequence[Effect | None], colours: Sequence[Colour], label: str, least: float = 0.0
) -> tuple[Figure, Axes]:
    """One named row per effect; None leaves its row empty. The axis shows `least` at least, and no row far beyond."""
    many = len(names) > 8
    labels = [textwrap.fill(one_line(name), 48 if many else 22, max_lines=3) for name in names]
    lines = 1 + max((label.count("\n") for label in labels), default=0)
    row_height = max(0.24 if many else 0.34, 0.15 * lines + 0.05)  # inches
    figure, axes = new_figure((WIDE if many else SMALL[0], max(SMALL[1] * 0.5, row_height * len(names) + 0.8)))
    for row, (found, colour) in enumerate(zip(effects, colours, strict=True)):
        if found is not None:
            _row(axes, row, found, colour)
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
    _mark_beyond(axes, effects, colours, least)
    return figure, axes


def _mark_beyond(axes: Axes, effects: Sequence[Effect | None], colours: Sequence[Colour], least: float) -> None:
    """Cut the axis where a few rows are far beyond all others: on its edge, the mean of each, or its farthest value."""
    shown = [(row, found, max(_extent(found), key=abs)) for row, found in enumerate(effects) if found is not None]
    limit = shown_reach([abs(farthest) for _, _, farthest in shown] or [0.0], least)
    inside = [value for _, found, _ in shown for value in _extent(found) if abs(value) <= limit]
    beyond = [one for one in shown if abs(one[2]) > limit > 0]
    if not beyond:
        return
    margin = 0.08 * (max(*inside, least) - min(*inside, 0.0))
    axes.set_xlim(min(*inside, 0.0) - margin, max(*inside, least) + margin)
    for row, found, farthest in beyond:
        value = found.mean if abs(found.mean) > limit else farthest
        side, colour = int(value > 0), colours[row].light
        edge = axes.get_yaxis_transform()
        axes.scatter(side, row, 42, marker=">" if side else "<", color=colour, transform=edge, clip_on=False, zorder=3)
        axes.annotate(
            f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}",
            (side, row),
            xycoords=edge,
            xytext=(-8 if side else 8, 0),
            textcoords="offset points",
            ha="right" if side else "left",
            va="center",
            color=colour,
            fontsize="small",
            bbox=PATCH,
        )
    axes.set_xlabel(f"{axes.get_xlabel()}\n(▶ beyond the axis)")


def _extent(found: Effect) -> list[float]:
    """Everything that a row shows."""
    return [*found.values, found.mean, *(end for end in (found.low, found.high) if end is not None)]


def _row(axes: Axes, row: int, found: Effect, colour: Colour) -> None:
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [row, row], color=colour.light, linewidth=2.4, solid_capstyle="round")
    axes.plot(found.values, [row] * len(found.values), "o", color=colour.light, markersize=3, alpha=0.55)
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
    """Golden's end over bytes per token: a line per kind of target, a number beside each point for its K."""
    figure, axes = new_figure(SMALL)
    points: dict[str, list[tuple[int, int, Effect]]] = {}
    for arm in shown:
        target, found = TargetSpec.parse(arm.axes.target), _golden_ends(arm.runs)
        if not found:
            continue
        if target.kind == "dense":
            axes.axhline(effect_of(found).mean, color=MUTED.light, linestyle=DASHED, linewidth=1, zorder=0)
        elif arm.bytes_per_token and not target.redraw:
            points.setdefault(target.kind, []).append((arm.bytes_per_token, target.k, effect_of(found)))
    for kind, placed in points.items():
        _kind_line(axes, kind, sorted(placed, key=lambda p: p[:2]))
    _log_bytes(axes)
    _name_points(axes, [(size, found.mean, k) for placed in points.values() for size, k, found in placed])
    axes.set_ylabel(f"golden at the end, {unit([arm.runs for arm in shown])}")
    if points:
        axes.legend(fontsize="x-small")
    return figure


def _golden_ends(arm: ArmRuns) -> dict[int, float]:
    """Golden at the end of every run that has it."""
    return dict(enumerate(run.verdict.golden.end for run in arm.runs if run.verdict.golden is not None))


def _kind_line(axes: Axes, kind: str, placed: Sequence[tuple[int, int, Effect]]) -> None:
    label, colour = _KINDS[kind]
    sizes, means = [p[0] for p in placed], [p[2].mean for p in placed]
    linestyle = "none" if kind == "mixed" else "-"
    axes.plot(sizes, means, color=colour.light, marker=colour.marker, linestyle=linestyle, markersize=4, label=label)
    for size, _, found in placed:
        if found.low is not None and found.high is not None:
            axes.plot([size, size], [found.low, found.high], color=colour.light, linewidth=1.2, alpha=0.6)


def _log_bytes(axes: Axes) -> None:
    """Bytes per token along the x axis: powers of two, or round numbers where it is too short for them."""
    from matplotlib.ticker import NullLocator  # an extra, and slow to import

    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    if high / low < 8:
        axes.xaxis.set_major_locator(few_ticks(integer=True))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bytes per token")


def _name_points(axes: Axes, points: Sequence[tuple[float, float, int]]) -> None:
    """K beside each point, higher where another point's would be in its place."""
    to_axes = axes.transData + axes.transAxes.inverted()
    taken: list[tuple[float, float]] = []
    for size, mean, k in sorted(points, key=lambda point: point[1]):
        x, y = to_axes.transform((size, mean))
        for other_x, other_y in taken:
            if abs(x - other_x) < 0.08:
                y = max(y, other_y + 0.045)
        taken.append((x, y))
        axes.annotate(
            str(k), (x, y), xycoords="axes fraction", xytext=(4, 3), textcoords="offset points", fontsize="xx-small"
        )
