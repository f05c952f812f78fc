"""The figures of the page about runs, each with a caption for a reader who does not know the paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thack.detection import Curves
from thack.reporting.colours import Colour
from thack.reporting.figures import curve, golden, plane, slope_ratios
from thack.reporting.inputs import ReportInput
from thack.reporting.prose import golden_name
from thack.reporting.rendered import RenderedFigure, rendered
from thack.schema.metrics import CurveName


def run_figures(report: ReportInput, colours: Sequence[Colour]) -> Iterator[RenderedFigure]:
    """Those that the runs have the numbers for."""
    judged = [run.curves for run in report.runs if run.verdict.golden is not None]
    curves = [run.curves for run in report.runs]
    if _any(judged, "golden", "proxy"):
        yield _plane(report, colours)
    if _any(curves, "golden"):
        yield _golden(report, colours)
    if _any(curves, "proxy"):
        yield rendered(
            "proxy",
            curve(report.arms, "proxy", "proxy, nats per token", colours),
            "Proxy: what the training sees",
            "Distance to the teacher on held-out prompts, both axes logarithmic. It keeps falling in hacking; "
            "if it rises, the student over-fits.",
            curves=("proxy",),
        )
    if _any(curves, "train_loss"):
        yield rendered(
            "train_loss",
            curve(report.arms, "train_loss", "training loss", colours),
            "Training loss",
            "Averaged over bins of steps, both axes logarithmic. A straight line does not show whether golden rises.",
            curves=("train_loss",),
        )
    if any(len(run.suspicion.deciding.series) for run in report.runs):
        yield rendered(
            "slope_ratio",
            slope_ratios(report.arms, colours),
            "Slope ratio: a sign without an oracle",
            "How much of each step’s progress on the training responses is also progress on responses that it "
            "does not train on. Near 1 the student learns its task; near 0 it memorises.",
            curves=("fresh", "proxy", "monitor"),
        )


def _plane(report: ReportInput, colours: Sequence[Colour]) -> RenderedFigure:
    return rendered(
        "plane",
        plane(report.arms, colours),
        "Proxy–golden plane",
        "Training runs to the right, as the student comes closer to its teacher. A healthy path only falls. "
        "Where it rises again, the student pays for closeness to the teacher with distance from the truth: hacking. "
        "The ring is the lowest golden value, the large marker the end; a perfect copy of the teacher would "
        "end on the dashed line.",
        curves=("proxy", "golden", "baseline"),
        large=True,
    )


def _golden(report: ReportInput, colours: Sequence[Colour]) -> RenderedFigure:
    band = "Band: 95 % interval over prompts of the ratio to the point at golden’s minimum (ring)."
    if report.has_seeds:
        band = "Line and band: median and range of the seeds."
    name = golden_name(report.golden_column)
    return rendered(
        "golden",
        golden(report.arms, colours),
        "Golden: what one really wants",
        f"{name[0].upper()}{name[1:]} on held-out prompts; lower is better. "
        f"The label is the rise from minimum to end. {band} The steep start is cropped.",
        curves=("golden", "baseline"),
        large=True,
    )


def _any(curves: Sequence[Curves], *names: CurveName) -> bool:
    return any(all(len(one.of(name)) for name in names) for one in curves)
