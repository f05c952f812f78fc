"""The figures: the proxy–golden plane, curves over steps, the slope ratio.

Every figure is a function of arms and colours that returns a matplotlib `Figure`; `save` writes it as PNG,
SVG or PDF. The numbers behind it come from lines.py.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thack.detection import Thresholds
from thack.detection.curves import Floats
from thack.errors import UsageError
from thack.files import write_bytes, write_text
from thack.reporting.colours import MUTED, SURFACE, Colour, assign
from thack.reporting.lines import Line, line_of, smoothed
from thack.reporting.prose import baseline_name, golden_name
from thack.reporting.runs import Arm, golden_column
from thack.reporting.style import SIZE, SMALL, styled
from thack.reporting.svg import file_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def colours_of(arms: Sequence[Arm]) -> list[Colour]:
    return assign([(arm.name, str(arm.runs[0].config.get("source.kind", ""))) for arm in arms])


@styled()
def plane(
    arms: Sequence[Arm],
    colours: Sequence[Colour] | None = None,
    *,
    legend: bool = False,
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Golden over proxy, with time running to the right: a path that turns up has begun to hack (F4)."""
    figure, axes = new_figure(size)
    tops: list[float] = []
    bottoms: list[float] = []
    lefts: list[float] = []
    turns: list[float] = []
    for arm, colour in zip(arms, colours or colours_of(arms), strict=True):
        paths = list(_paths(arm))
        for number, (proxy_E, golden_E, judged) in enumerate(paths):
            main = number == len(paths) - 1
            lowest = judged.start + int(np.argmin(golden_E[judged]))  # the warm-up may lie lower
            _path(axes, proxy_E, golden_E, lowest, colour, main=main, label=arm.name if main else None)
            tops.append(golden_E[judged].max())
            bottoms.append(golden_E.min())
            lefts.append(proxy_E[judged].max())
            turns.append(float(proxy_E[lowest]))
    _reference(axes, arms, turns[-1] if len(arms) == 1 and turns else None)
    lines = [run.verdict.line for arm in arms for run in arm.runs if run.verdict.line is not None]
    if tops:
        _crop(axes, bottoms + lines, tops + lines)
        right, left = axes.get_xlim()
        axes.set_xlim(max(lefts) * 1.06, min(right, left))
    axes.set_xlabel("proxy: distance to the teacher, nats per token  (closer →)")
    axes.set_ylabel(textwrap.fill(f"golden: {golden_name(golden_column(arms))}", 40))
    if legend:
        _legend(figure, len(arms))
    return figure


def _paths(arm: Arm) -> Iterator[tuple[Floats, Floats, slice]]:
    """Proxy, golden, and the judged part, of every seed; the last is the median if there are several."""
    lines = [(line_of(Arm(arm.name, (run,)), "proxy"), line_of(Arm(arm.name, (run,)), "golden")) for run in arm.runs]
    if len(arm.runs) > 1:
        lines.append((line_of(arm, "proxy"), line_of(arm, "golden")))
    warmup = arm.runs[0].verdict.margins.warmup_steps
    for proxy, golden in lines:
        if proxy is None or golden is None:
            continue
        shared, at_proxy, at_golden = np.intersect1d(proxy.step, golden.step, return_indices=True)
        judged = slice(int(np.searchsorted(shared, warmup, side="right")), None)
        if len(shared[judged]):
            yield proxy.value[at_proxy], golden.value[at_golden], judged


def _path(
    axes: Axes, proxy_E: Floats, golden_E: Floats, lowest: int, colour: Colour, *, main: bool, label: str | None
) -> None:
    if not main:
        axes.plot(proxy_E, golden_E, color=colour.light, linewidth=0.7, alpha=0.45)
        return
    axes.plot(proxy_E, golden_E, color=colour.light, marker=colour.marker, label=label, markersize=3.2)
    axes.plot(
        proxy_E[lowest],
        golden_E[lowest],
        "o",
        color=colour.light,
        markersize=9,
        fillstyle="none",
        markeredgewidth=1.1,
    )
    axes.plot(proxy_E[-1], golden_E[-1], color=colour.light, marker=colour.marker, markersize=6.5)


@styled()
def golden(
    arms: Sequence[Arm],
    colours: Sequence[Colour] | None = None,
    *,
    legend: bool = False,
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Golden over steps, cropped to what happens after the warm-up, with KL(oracle‖teacher) (F5, right)."""
    figure, axes = new_figure(size)
    tops: list[float] = []
    bottoms: list[float] = []
    turns: list[float] = []
    ends: list[tuple[float, float, str, Colour]] = []
    for arm, colour in zip(arms, colours or colours_of(arms), strict=True):
        line = line_of(arm, "golden")
        if line is None:
            continue
        _draw(axes, line, colour, label=arm.name)
        judged = line.step > arm.runs[0].verdict.margins.warmup_steps
        shown = judged if judged.any() else line.step > 0  # a run shorter than the warm-up
        lowest = int(np.argmin(np.where(shown, line.value, np.inf)))
        axes.plot(line.step[lowest], line.value[lowest], "o", color=colour.light, markersize=9, fillstyle="none")
        turns.append(float(line.step[lowest]))
        tops.append(float((line.value if line.high is None else line.high)[shown].max()))
        bottoms.append(float((line.value if line.low is None else line.low)[shown].min()))
        if arm.median_rise is not None:
            ends.append((float(line.step[-1]), float(line.value[-1]), f"{100 * arm.median_rise:+.1f} %", colour))
    _reference(axes, arms, min(turns) if turns else None)
    _log_steps(axes, arms)
    lines = [run.verdict.line for arm in arms for run in arm.runs if run.verdict.line is not None]
    if tops:
        _crop(axes, bottoms + lines, tops + lines)
    _end_labels(axes, ends)
    axes.set_ylabel("golden, nats per token")
    if legend:
        _legend(figure, len(arms))
    return figure


@styled()
def curve(
    arms: Sequence[Arm],
    word: str,
    label: str,
    colours: Sequence[Colour] | None = None,
    *,
    legend: bool = False,
) -> Figure:
    """Any word over steps, log–log: straight where learning follows a power law."""
    figure, axes = new_figure(SMALL)
    for arm, colour in zip(arms, colours or colours_of(arms), strict=True):
        if word == "train_loss":
            for number, run in enumerate(arm.runs):
                series = smoothed(run.curves.of(word))
                axes.plot(
                    series.step,
                    series.value,
                    color=colour.light,
                    linewidth=1.4,
                    alpha=1.0 if len(arm.runs) == 1 else 0.6,
                    label=arm.name if number == 0 else None,
                )
        elif (line := line_of(arm, word)) is not None:
            _draw(axes, line, colour, label=arm.name)
    _log_steps(axes, arms)
    _log_values(axes)
    axes.set_ylabel(label)
    if legend:
        _legend(figure, len(arms))
    return figure


@styled()
def slope_ratios(
    arms: Sequence[Arm], colours: Sequence[Colour] | None = None, thresholds: Thresholds | None = None
) -> Figure:
    """The slope ratio that decides without an oracle, over steps, with its threshold."""
    limits = thresholds or Thresholds()
    figure, axes = new_figure(SMALL)
    for arm, colour in zip(arms, colours or colours_of(arms), strict=True):
        found = [run.suspicion.deciding.series for run in arm.runs]
        for number, series in enumerate(one for one in found if len(one)):
            axes.plot(
                series.step,
                series.value,
                color=colour.light,
                marker=colour.marker,
                linewidth=1.4 if len(arm.runs) == 1 else 0.9,
                alpha=1.0 if len(arm.runs) == 1 else 0.7,
                label=arm.name if number == 0 else None,
            )
    axes.axhline(limits.slope_ratio, color=MUTED.light, linestyle=(0, (4, 3)), linewidth=1)
    _note(axes, f"alarm below {limits.slope_ratio:g}", limits.slope_ratio, None)
    low, high = axes.get_ylim()
    axes.set_ylim(max(min(low, 0.0), -1.0) - 0.04, min(max(high, 1.1), 2.0))
    _log_steps(axes, arms)
    axes.set_ylabel("slope ratio")
    return figure


# --- shared drawing --------------------------------------------------------------------------------------


def _legend(figure: Figure, num_arms: int) -> None:
    figure.legend(loc="outside upper left", ncols=min(num_arms, 4), fontsize=8.5)


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """One pair of axes, laid out to fit its labels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _draw(axes: Axes, line: Line, colour: Colour, *, label: str) -> None:
    shown = line.step > 0  # step 0 has no place on a logarithmic axis
    if line.low is not None and line.high is not None:
        axes.fill_between(
            line.step[shown], line.low[shown], line.high[shown], color=colour.light, alpha=0.16, linewidth=0
        )
    axes.plot(line.step[shown], line.value[shown], color=colour.light, marker=colour.marker, label=label)


def _reference(axes: Axes, arms: Sequence[Arm], at: float | None) -> None:
    """The line KL(oracle‖teacher); a band where seeds have teachers of their own."""
    lines = [run.verdict.line for arm in arms for run in arm.runs if run.verdict.line is not None]
    if not lines:
        return
    middle = float(np.median(lines))
    if max(lines) > min(lines) * 1.0001:
        axes.axhspan(min(lines), max(lines), color=MUTED.light, alpha=0.13, linewidth=0)
    axes.axhline(middle, color=MUTED.light, linestyle=(0, (4, 3)), linewidth=1)
    _note(axes, baseline_name(golden_column(arms)), middle, at)


def _note(axes: Axes, text: str, height: float, at: float | None) -> None:
    """A word on a horizontal line, around `at` or at its right end, on a patch of the page's colour."""
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
        bbox={"facecolor": SURFACE.light, "edgecolor": "none", "alpha": 0.8, "pad": 1},
        zorder=5,
    )


def add_margin_line(axes: Axes, at: float) -> None:
    """A dashed vertical line: the margin beyond which a rise counts."""
    axes.axvline(at, color=MUTED.light, linestyle=(0, (4, 3)), linewidth=1, zorder=0)


def _crop(axes: Axes, bottoms: Sequence[float], tops: Sequence[float]) -> None:
    """Show what the verdict is about; the steep fall at the start comes in from above."""
    low, high = min(bottoms), max(tops)
    room = max(high - low, 0.02 * abs(high)) * 0.12
    axes.set_ylim(low - room, high + 1.5 * room)


def _end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, Colour]]) -> None:
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
        )
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * (right / left) ** 0.1)


def _log_steps(axes: Axes, arms: Sequence[Arm]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training step" + _epoch_note(arms))


def _log_values(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if not axes.lines:
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    subs: tuple[float, ...] = (1.0, 2.0, 5.0) if decades > 1 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    if decades < 0.25:
        subs = tuple(1 + i / 10 for i in range(90))[:: max(1, int(90 * decades / 5)) or 1]
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _epoch_note(arms: Sequence[Arm]) -> str:
    """How many steps make an epoch, where all runs agree."""
    found = set()
    for arm in arms:
        for run in arm.runs:
            epoch_E = run.curves.columns.get("epoch")
            if epoch_E is not None and len(epoch_E) and epoch_E[-1] > 0:
                found.add(round(float(run.curves.step_E[-1] / epoch_E[-1])))
    return f"  (an epoch is {found.pop()} steps)" if len(found) == 1 else ""


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG (opaque, 200 dpi), SVG or PDF, by the path's ending."""
    if path.suffix == ".svg":
        write_text(path, file_svg(figure))
        return path
    if path.suffix not in (".png", ".pdf"):
        raise UsageError(f"{path}: figures are saved as .png, .svg or .pdf")
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=path.suffix[1:], dpi=200, facecolor=SURFACE.light)
    write_bytes(path, buffer.getvalue())
    return path
