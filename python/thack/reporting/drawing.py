"""What several figures draw: axes, curves with bands, the teacher baseline, labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

from thack.reporting.bands import Band
from thack.reporting.colours import MUTED, SURFACE, Colour
from thack.reporting.inputs import ArmRuns, golden_column
from thack.reporting.prose import baseline_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

DASHED = (0, (4, 3))
PATCH = {"facecolor": SURFACE.light, "edgecolor": "none", "alpha": 0.8, "pad": 1}  # behind a label, over lines
_LABEL = (0.19, 0.045)  # half the size of a label, as shares of the axes
_FAR = 20.0  # times as far as all others: these would have less than a twentieth of the axis
EndLabel = tuple[float, float, str, Colour]  # step, value, text and its colour


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """One pair of axes, laid out to fit its labels."""
    from matplotlib.figure import Figure  # matplotlib is an extra, and slow to import

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def draw_band(axes: Axes, band: Band, colour: Colour, *, width: float = 1.6) -> None:
    """A curve over steps, in front of its band."""
    shown = band.step > 0  # step 0 has no place on a logarithmic axis
    if band.low is not None and band.high is not None:
        axes.fill_between(
            band.step[shown], band.low[shown], band.high[shown], color=colour.light, alpha=0.16, linewidth=0
        )
    axes.plot(band.step[shown], band.value[shown], color=colour.light, marker=colour.marker, linewidth=width)


def mark_ends(axes: Axes, drawn: Sequence[tuple[Band, Colour]]) -> None:
    """A cross where a seed ends and its arm's curve is of the others from there on; and what it means."""
    cut = [(band, colour) for band, colour in drawn if band.ends]
    for band, colour in cut:
        at = np.isin(band.step, band.ends) & (band.step > 0)
        axes.scatter(band.step[at], band.value[at], 42, marker="x", color=colour.light, zorder=3)
    if cut:
        axes.set_ylabel(f"{axes.get_ylabel()}\n(× a seed ends, the others continue)")


def widths(count: int) -> list[float]:
    """Of curves drawn one over the other: where two coincide, the first shows on both sides of the second."""
    return [1.6 + 1.4 * (count - 1 - number) for number in range(count)] if count < 4 else [1.6] * count


def ring(axes: Axes, x: float, y: float, colour: Colour) -> None:
    """A ring around golden's lowest point."""
    axes.plot(x, y, "o", color=colour.light, markersize=9, fillstyle="none", markeredgewidth=1.1)


def baselines(arms: Sequence[ArmRuns]) -> list[float]:
    """The teacher baseline of every run that has one."""
    return [run.verdict.baseline for arm in arms for run in arm.runs if run.verdict.baseline is not None]


def draw_baseline(axes: Axes, arms: Sequence[ArmRuns]) -> None:
    """The teacher baseline, on axes with their final limits; a band where seeds have teachers of their own."""
    found = baselines(arms)
    if not found:
        return
    middle = float(np.median(found))
    if max(found) > min(found) * 1.0001:
        axes.axhspan(min(found), max(found), color=MUTED.light, alpha=0.13, linewidth=0)
    place, above = _clearest(axes, middle)
    axes.axhline(middle, color=MUTED.light, linestyle=DASHED, linewidth=1)
    annotate(axes, baseline_name(golden_column(arms)), middle, place, above=above)


def _clearest(axes: Axes, height: float) -> tuple[float, bool]:
    """Where on a horizontal line a label is farthest from all curves: the share of the width, and whether above."""
    to_axes = axes.transData + axes.transAxes.inverted()
    between = np.linspace(0, 1, 20)[:, None]
    found = [to_axes.transform(np.column_stack(line.get_data())) for line in axes.lines]
    parts = [a + between * (b - a) for points in found for a, b in pairwise(points)] or [np.full((1, 2), 9.0)]
    points_N2 = np.concatenate([*parts, *found])
    level = to_axes.transform((axes.get_xlim()[1], height))[1]
    best, choice = -1.0, (0.5, True)
    for place, above in product((0.79, 0.65, 0.5, 0.35, 0.21), (True, False)):
        apart_N2 = np.abs(points_N2 - (place, level + (0.04 if above else -0.04))) / _LABEL
        if (clear := float(apart_N2.max(axis=1).min())) > best + 1e-9:
            best, choice = clear, (place, above)
    return choice


def annotate(axes: Axes, text: str, height: float, at: float | None, *, above: bool = True) -> None:
    """A text on a horizontal line, around a share of the width or at its right end, on a patch of the page's colour."""
    axes.annotate(
        text,
        (0.995 if at is None else at, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, 6 if above else -7),
        textcoords="offset points",
        ha="right" if at is None else "center",
        va="center",
        color=MUTED.light,
        fontsize=7.5,
        bbox=PATCH,
        zorder=1.9,  # below the curves, which it must not hide
    )


def shown_reach(reaches: Sequence[float], least: float = 0.0) -> float:
    """How far an axis reaches: to the farthest, or to the others where one of the farther half is 20 times as far.

    A student that diverged would leave the others no room.

    Example:
        >>> shown_reach([0.02, 0.05, 0.3]), shown_reach([0.02, 0.05, 30.0])
        (0.3, 0.05)
    """
    found = sorted(max(reach, least) for reach in reaches)
    for inner, outer in pairwise(found[(len(found) - 1) // 2 :]):
        if 0 < _FAR * inner < outer:
            return inner
    return found[-1]


def crop(axes: Axes, bottoms: Sequence[float], tops: Sequence[float], levels: Sequence[float] = ()) -> float:
    """Show what the verdict is about; the steep fall at the start comes in from above.

    Args:
        axes: its y axis gets new limits.
        bottoms: the lowest value of each curve.
        tops: the highest value of each curve that is judged; one that is far above all others is cut.
        levels: horizontal lines, which are always shown.

    Returns:
        The highest value that is shown.
    """
    low = min([*bottoms, *levels])
    high = low + shown_reach([top - low for top in tops], max(levels, default=low) - low)
    room = max(high - low, 0.02 * abs(high), 1e-9) * 0.12  # both may be 0
    axes.set_ylim(low - room, high + 1.5 * room)
    return high


def mark_above(axes: Axes, ends: Sequence[tuple[float, Colour]]) -> None:
    """A triangle on the upper edge for each curve that leaves it, where it ends on the x axis; and what it means."""
    right, left = sorted(axes.get_xlim())
    for x, colour in ends:
        at = min(max(x, right), left)
        edge = axes.get_xaxis_transform()
        axes.scatter(at, 1, 42, marker="^", color=colour.light, transform=edge, clip_on=False, zorder=3)
    if ends:
        axes.set_ylabel(f"{axes.get_ylabel()}\n(▲ ends above the axis)")


def end_labels(axes: Axes, ends: Sequence[EndLabel]) -> None:
    """Labels right of the curves' ends, moved apart where they would overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    gap = (high - low) * 0.055
    at = -math.inf
    for step, value, text, colour in sorted(ends, key=lambda end: end[1]):
        at = max(value, at + gap)
        axes.annotate(
            text,
            (step, at),
            xytext=(7, 0),
            textcoords="offset points",
            color=colour.light,
            fontsize=8.5,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            bbox=PATCH,
        )
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * (right / left) ** 0.1)


def few_ticks(*, integer: bool = False) -> Locator:
    """About five round numbers, evenly spaced."""
    from matplotlib.ticker import MaxNLocator  # an extra, and slow to import

    return MaxNLocator(5, steps=[1, 2, 5, 10], integer=integer)


def log_steps(axes: Axes, arms: Sequence[ArmRuns]) -> None:
    """Training steps along the x axis, logarithmic."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # an extra, and slow to import

    axes.set_xlabel("training step" + _epoch_note(arms))
    if not axes.dataLim.x1 > 0:  # a run that has only begun
        return
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    is_short = not axes.lines or high / low < 8  # a logarithm has one round number there, or none
    axes.xaxis.set_major_locator(few_ticks(integer=True) if is_short else LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    )
    axes.xaxis.set_minor_locator(NullLocator())


def log_values(axes: Axes) -> None:
    """A logarithmic y axis, with ticks where the values are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # an extra, and slow to import

    if not any(value > 0 for line in axes.lines for value in np.atleast_1d(np.asarray(line.get_ydata(), float))):
        return  # a student that is its teacher has a proxy of 0: no logarithm shows it
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades > 1 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs) if decades > 0.4 else few_ticks())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _epoch_note(arms: Sequence[ArmRuns]) -> str:
    """How many steps make an epoch, where all runs agree."""
    found = set()
    for run in (run for arm in arms for run in arm.runs):
        epoch_E = run.curves.columns.get("epoch")
        if epoch_E is not None and len(epoch_E) and epoch_E[-1] > 0:
            found.add(round(float(run.curves.step_E[-1] / epoch_E[-1])))
    return f"  (an epoch is {found.pop()} steps)" if len(found) == 1 else ""
