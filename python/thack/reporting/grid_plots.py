"""The plots that only a grid has: every arm's rise, and where golden ends over what a target costs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from thack.reporting.colours import MUTED, OFFLINE, ONLINE_STUDENT, ONLINE_TEACHER, OTHERS, Colour
from thack.reporting.drawing import DASHED, new_figure
from thack.reporting.effects import effect_of
from thack.reporting.grid import GridArm
from thack.reporting.inputs import ArmRuns, unit
from thack.reporting.style import SMALL, styled
from thack.reporting.text import one_line
from thack.schema.experiment import Effect
from thack.schema.targets import TargetSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled()
def rises(arms: Sequence[ArmRuns], colours: Sequence[Colour]) -> Figure:
    """One row per arm: every seed's rise, their mean and its interval."""
    height = max(SMALL[1] * 0.5, 0.34 * len(arms) + 0.8)
    figure, axes = new_figure((SMALL[0], min(height, 5.0)))
    for row, (arm, colour) in enumerate(zip(arms, colours, strict=True)):
        _rise_row(axes, row, arm, colour)
    labels = [textwrap.fill(one_line(arm.name), 22, max_lines=3) for arm in arms]
    axes.set_yticks(range(len(arms)), labels, fontsize="x-small" if len(arms) > 8 else None)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel("rise of golden, %")
    axes.grid(visible=False, axis="y")
    axes.axvline(3.0, color=MUTED.light, linestyle=DASHED, linewidth=1, zorder=0)  # from where on a rise counts
    return figure


def _rise_row(axes: Axes, row: int, arm: ArmRuns, colour: Colour) -> None:
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
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("bytes per token")
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
    for size, k, found in placed:
        if found.low is not None and found.high is not None:
            axes.plot([size, size], [found.low, found.high], color=colour.light, linewidth=1.2, alpha=0.6)
        axes.annotate(str(k), (size, found.mean), xytext=(4, 3), textcoords="offset points", fontsize="xx-small")
