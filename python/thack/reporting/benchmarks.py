"""The figure of benchmarks: scores of tasks beside golden and proxy, over steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thack.detection import Curves
from thack.reporting.bands import band_of
from thack.reporting.colours import Colour
from thack.reporting.drawing import DASHED, log_steps, new_figure
from thack.reporting.inputs import ArmRuns
from thack.reporting.style import SMALL, styled
from thack.schema.metrics import CurveName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PREFIX, _ERROR = "benchmark/", "/stderr"
_MARKERS = "osD^vP*X"


def benchmark_columns(curves: Curves) -> list[str]:
    """The columns of a run that are scores of tasks, without their standard errors."""
    return sorted(name for name in curves.columns if name.startswith(_PREFIX) and not name.endswith(_ERROR))


@styled()
def benchmarks(arms: Sequence[ArmRuns], colours: Sequence[Colour]) -> Figure:
    """Golden and proxy on the left axis, every task on the right one; each task has a marker, each arm a colour."""
    figure, axes = new_figure(SMALL)
    scores = axes.twinx()
    names = sorted({name for arm in arms for run in arm.runs for name in benchmark_columns(run.curves)})
    lines: dict[CurveName, object] = {"golden": "-", "proxy": DASHED}
    for arm, colour in zip(arms, colours, strict=True):
        for curve, style in lines.items():
            band = band_of(arm, curve)
            if band is not None:
                shown = band.step > 0
                axes.plot(band.step[shown], band.value[shown], color=colour.light, linestyle=style, linewidth=1)
        for run in arm.runs:
            for number, name in enumerate(names):
                value_E = run.curves.columns.get(name, np.full(len(run.curves.step_E), np.nan))
                error_E = run.curves.columns.get(name + _ERROR, np.zeros(len(run.curves.step_E)))
                seen = np.isfinite(value_E) & (run.curves.step_E > 0)
                scores.errorbar(
                    run.curves.step_E[seen],
                    value_E[seen],
                    yerr=np.nan_to_num(error_E[seen]),
                    color=colour.light,
                    marker=_MARKERS[number % len(_MARKERS)],
                    linestyle=":",
                    linewidth=0.9,
                    label=name.removeprefix(_PREFIX) if arm is arms[0] and run is arm.runs[0] else None,
                )
    log_steps(axes, arms)
    axes.set_ylabel("golden (solid), proxy (dashed), nats")
    scores.set_ylabel("score")
    scores.legend(fontsize=6, loc="best")
    return figure
