"""The figures: the proxy–golden plane, curves over steps, the slope ratio.

Every figure is a function of arms and colours that returns a matplotlib `Figure`. The numbers behind it come from
bands.py.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from thack.detection import Thresholds
from thack.reporting.bands import Band, band_of, smoothed
from thack.reporting.colours import MUTED, Colour, assign
from thack.reporting.drawing import (
    DASHED,
    EndLabel,
    annotate,
    baselines,
    crop,
    draw_band,
    draw_baseline,
    end_labels,
    few_ticks,
    log_steps,
    log_values,
    mark_above,
    mark_ends,
    new_figure,
    ring,
    shown_reach,
    widths,
)
from thack.reporting.inputs import ArmRuns, golden_column, unit
from thack.reporting.losses import sole_divergence
from thack.reporting.prose import golden_meaning
from thack.reporting.style import SIZE, SMALL, styled
from thack.schema.metrics import CurveName, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def colours_of(arms: Sequence[ArmRuns]) -> list[Colour]:
    """A colour for each arm, by who writes its responses."""
    return assign([(arm.name, str(arm.runs[0].config.get("source.kind", ""))) for arm in arms])


@styled()
def plane(arms: Sequence[ArmRuns], colours: Sequence[Colour], *, size: tuple[float, float] = SIZE) -> Figure:
    """Golden over proxy, with time running to the right: where the path rises again, the student hacks (F4)."""
    figure, axes = new_figure(size)
    tops: list[float] = []
    bottoms: list[float] = []
    lefts: list[float] = []
    ends: list[tuple[float, float, Colour]] = []  # proxy, golden
    for arm, colour in zip(arms, colours, strict=True):
        paths = list(_paths(arm))
        for number, (proxy_E, golden_E, judged) in enumerate(paths):
            lowest = judged.start + int(np.argmin(golden_E[judged]))  # the warm-up may be lower
            _path(axes, proxy_E, golden_E, lowest, colour, main=number == len(paths) - 1)
            tops.append(golden_E[judged].max())
            bottoms.append(golden_E.min())
            lefts.append(proxy_E[judged].max())
        if paths:
            ends.append((paths[-1][0][-1], paths[-1][1][-1], colour))
    axes.set_xlabel(f"proxy: distance to the teacher, {unit(arms)}  (closer →)")
    axes.set_ylabel(textwrap.fill(f"golden: {golden_meaning(golden_column(arms))}, {unit(arms)}", 48))
    if tops:
        high = crop(axes, bottoms, tops, baselines(arms))
        _crop_proxy(axes, lefts)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(few_ticks())
        mark_above(axes, [(proxy, colour) for proxy, golden, colour in ends if golden > high])
    draw_baseline(axes, arms)
    return figure


def _crop_proxy(axes: Axes, farthest: Sequence[float]) -> None:
    """The x axis, falling to the right, from the farthest judged proxy on."""
    left = shown_reach(farthest)
    end = max(min(axes.get_xlim()), 0.0) if left > 0 else min(axes.get_xlim())  # a proxy of 0 throughout has no width
    axes.set_xlim(max(left * 1.06, end + 1e-9), end)


def _paths(arm: ArmRuns) -> Iterator[tuple[Floats, Floats, slice]]:
    """Proxy, golden, and the judged part, of every seed; the last is the median if there are several."""
    groups = [ArmRuns(arm.name, (run,)) for run in arm.runs]
    if len(arm.runs) > 1:
        groups.append(arm)
    warmup = arm.runs[0].verdict.margins.warmup_steps
    for group in groups:
        proxy, golden = band_of(group, "proxy"), band_of(group, "golden")
        if proxy is None or golden is None:
            continue
        shared, at_proxy, at_golden = np.intersect1d(proxy.step, golden.step, return_indices=True)
        judged = slice(int(np.searchsorted(shared, warmup, side="right")), None)
        if len(shared[judged]):
            yield proxy.value[at_proxy], golden.value[at_golden], judged


def _path(axes: Axes, proxy_E: Floats, golden_E: Floats, lowest: int, colour: Colour, *, main: bool) -> None:
    if not main:
        axes.plot(proxy_E, golden_E, color=colour.light, linewidth=0.7, alpha=0.45)
        return
    axes.plot(proxy_E, golden_E, color=colour.light, marker=colour.marker, markersize=3.2)
    ring(axes, proxy_E[lowest], golden_E[lowest], colour)
    axes.plot(proxy_E[-1], golden_E[-1], color=colour.light, marker=colour.marker, markersize=6.5)


@styled()
def golden(arms: Sequence[ArmRuns], colours: Sequence[Colour], *, size: tuple[float, float] = SIZE) -> Figure:
    """Golden over steps, cropped to what happens after the warm-up, with the teacher baseline (F5, right)."""
    figure, axes = new_figure(size)
    tops: list[float] = []
    bottoms: list[float] = []
    ends: list[EndLabel] = []
    drawn: list[tuple[Band, Colour]] = []
    for arm, colour, width in zip(arms, colours, widths(len(arms)), strict=True):
        band = band_of(arm, "golden")
        if band is None:
            continue
        draw_band(axes, band, colour, width=width)
        drawn.append((band, colour))
        judged = band.step > arm.runs[0].verdict.margins.warmup_steps
        # A run may be shorter than the warm-up, or have begun and no more.
        shown = next(mask for mask in (judged, band.step > 0, band.step >= 0) if mask.any())
        lowest = int(np.argmin(np.where(shown, band.value, np.inf)))
        ring(axes, band.step[lowest], band.value[lowest], colour)
        tops.append(float((band.value if band.high is None else band.high)[shown].max()))
        bottoms.append(float((band.value if band.low is None else band.low).min()))  # the warm-up may be lower
        label = "" if arm.median_rise is None else f"{100 * arm.median_rise:+,.1f} %"
        ends.append((float(band.step[-1]), float(band.value[-1]), label, colour))
    log_steps(axes, arms)
    axes.set_ylabel(f"golden, {unit(arms)}")
    mark_ends(axes, drawn)
    if tops:
        high = crop(axes, bottoms, tops, baselines(arms))
        mark_above(axes, [(step, colour) for step, value, _, colour in ends if value > high])
        end_labels(axes, [(step, min(value, high), label, colour) for step, value, label, colour in ends if label])
    draw_baseline(axes, arms)
    return figure


@styled()
def curve(arms: Sequence[ArmRuns], name: CurveName, label: str, colours: Sequence[Colour]) -> Figure:
    """Any curve over steps, log–log: straight where learning follows a power law."""
    figure, axes = new_figure(SMALL)
    drawn: list[tuple[Band, Colour]] = []
    for arm, colour, width in zip(arms, colours, widths(len(arms)), strict=True):
        if name == "train_loss":
            for run in arm.runs:
                series = smoothed(run.curves.of(name))
                alpha = 1.0 if len(arm.runs) == 1 else 0.6
                axes.plot(series.step, series.value, color=colour.light, linewidth=width, alpha=alpha)
        elif (band := band_of(arm, name)) is not None:
            draw_band(axes, band, colour, width=width)
            drawn.append((band, colour))
    log_steps(axes, arms)
    log_values(axes)
    axes.set_ylabel(label)
    mark_ends(axes, drawn)
    return figure


def loss_label(arms: Sequence[ArmRuns]) -> str:
    """The axis of the training loss: its divergence where all runs have this one and nothing else."""
    found = {None if run.curves.is_per_byte else sole_divergence(run.config) for arm in arms for run in arm.runs}
    name = found.pop() if len(found) == 1 else None
    return f"{name or 'training loss'}, nats per token"


@styled()
def slope_ratios(arms: Sequence[ArmRuns], colours: Sequence[Colour]) -> Figure:
    """The slope ratio that decides without an oracle, over steps, with its threshold."""
    threshold = Thresholds().slope_ratio
    figure, axes = new_figure(SMALL)
    for arm, colour in zip(arms, colours, strict=True):
        alone = len(arm.runs) == 1
        for found in (run.suspicion.deciding for run in arm.runs if len(run.suspicion.deciding.series)):
            series = found.series
            if found.alarm_step is not None and found.value is not None:
                ring(axes, found.alarm_step, found.value, colour)
            axes.plot(
                series.step,
                series.value,
                color=colour.light,
                marker=colour.marker,
                linewidth=1.4 if alone else 0.9,
                alpha=1.0 if alone else 0.7,
            )
    axes.axhline(threshold, color=MUTED.light, linestyle=DASHED, linewidth=1)
    annotate(axes, f"alarm below {threshold:g}", threshold, None)
    low, high = axes.get_ylim()
    axes.set_ylim(max(min(low, 0.0), -1.0) - 0.04, min(max(high, 1.1), 2.0))
    log_steps(axes, arms)
    deciding = {run.suspicion.decided_by for arm in arms for run in arm.runs if len(run.suspicion.deciding.series)}
    axes.set_ylabel(deciding.pop() if len(deciding) == 1 else "slope ratio")
    return figure
