"""What several figures draw: axes, curves with bands, the teacher baseline, labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thack.reporting.bands import Band
from thack.reporting.colours import MUTED, SURFACE, Colour
from thack.reporting.inputs import ArmRuns, golden_column
from thack.reporting.prose import baseline_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED = (0, (4, 3))
_PATCH = {"facecolor": SURFACE.light, "edgecolor": "none", "alpha": 0.8, "pad": 1}  # behind a label, over lines
EndLabel = tuple[float, float, str, Colour]  # step, value, text and its colour


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """One pair of axes, laid out to fit its labels."""
    from matplotlib.figure import Figure  # matplotlib is an extra, and slow to import

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def draw_band(axes: Axes, band: Band, colour: Colour) -> None:
    """A curve over steps, in front of its band."""
    shown = band.step > 0  # step 0 has no place on a logarithmic axis
    if band.low is not None and band.high is not None:
        axes.fill_between(
            band.step[shown], band.low[shown], band.high[shown], color=colour.light, alpha=0.16, linewidth=0
        )
    axes.plot(band.step[shown], band.value[shown], color=colour.light, marker=colour.marker)


def ring(axes: Axes, x: float, y: float, colour: Colour) -> None:
    """A ring around golden's lowest point."""
    axes.plot(x, y, "o", color=colour.light, markersize=9, fillstyle="none", markeredgewidth=1.1)


def baselines(arms: Sequence[ArmRuns]) -> list[float]:
    """The teacher baseline of every run that has one."""
    return [run.verdict.baseline for arm in arms for run in arm.runs if run.verdict.baseline is not None]


def draw_baseline(axes: Axes, arms: Sequence[ArmRuns], at: float | None) -> None:
    """The teacher baseline; a band where seeds have teachers of their own."""
    found = baselines(arms)
    if not found:
        return
    middle = float(np.median(found))
    if max(found) > min(found) * 1.0001:
        axes.axhspan(min(found), max(found), color=MUTED.light, alpha=0.13, linewidth=0)
    axes.axhline(middle, color=MUTED.light, linestyle=DASHED, linewidth=1)
    annotate(axes, baseline_name(golden_column(arms)), middle, at)


def annotate(axes: Axes, text: str, height: float, at: float | None) -> None:
    """A text on a horizontal line, around `at` or at its right end, on a patch of the page's colour."""
    axes.annotate(
        text,
        (0.995 if at is None else at, height),
        xycoords=("axes fraction" if at is None else "data", "data"),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right" if at is None else "center",
        va="center",
        color=MUTED.light,
        fontsize=7.5,
        bbox=_PATCH,
        zorder=1.9,  # below the curves, which it must not hide
    )


def crop(axes: Axes, bottoms: Sequence[float], tops: Sequence[float]) -> None:
    """Show what the verdict is about; the steep fall at the start comes in from above."""
    low, high = min(bottoms), max(tops)
    room = max(high - low, 0.02 * abs(high), 1e-9) * 0.12  # both may be 0
    axes.set_ylim(low - room, high + 1.5 * room)


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
            bbox=_PATCH,
        )
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * (right / left) ** 0.1)


def log_steps(axes: Axes, arms: Sequence[ArmRuns]) -> None:
    """Training steps along the x axis, logarithmic."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # an extra, and slow to import

    axes.set_xlabel("training step" + _epoch_note(arms))
    if not axes.dataLim.x1 > 0:  # a run that has only begun
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    )
    axes.xaxis.set_minor_locator(NullLocator())


def log_values(axes: Axes) -> None:
    """A logarithmic y axis, with ticks where the values are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator  # an extra, and slow to import

    if not any(value > 0 for line in axes.lines for value in np.atleast_1d(np.asarray(line.get_ydata(), float))):
        return  # a student that is its teacher has a proxy of 0: no logarithm shows it
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades > 1 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs) if decades > 0.25 else MaxNLocator(5))
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
