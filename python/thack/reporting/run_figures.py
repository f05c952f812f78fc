"""The figures of the page about runs, each with a caption for a reader who does not know the paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thack.detection import Curves
from thack.reporting.benchmarks import benchmark_columns, benchmarks
from thack.reporting.colours import Colour
from thack.reporting.figures import curve, golden, loss_label, plane, slope_ratios
from thack.reporting.inputs import ReportInput, unit
from thack.reporting.prose import golden_meaning
from thack.reporting.rendered import RenderedFigure, rendered
from thack.reporting.style import SIZE, SMALL
from thack.schema.metrics import CurveName


def run_figures(report: ReportInput, colours: Sequence[Colour]) -> Iterator[RenderedFigure]:
    """Those that the runs have the numbers for."""
    judged = [run.curves for run in report.runs if run.verdict.golden is not None]
    curves = [run.curves for run in report.runs]
    if has_plane := _any(judged, "golden", "proxy"):
        yield _plane(report, colours)
    if _any(curves, "golden"):
        yield _golden(report, colours, beside_plane=has_plane)
    if _any(curves, "proxy"):
        yield rendered(
            "proxy",
            curve(report.arms, "proxy", f"proxy, {unit(report.arms)}", colours),
            "Proxy: distance to the teacher",
            f"{_distance(report)} on held-out prompts, both axes logarithmic. It keeps falling in hacking; "
            "if it rises, the student over-fits.",
            curves=("proxy",),
        )
    if any(benchmark_columns(run.curves) for run in report.runs):
        yield rendered(
            "benchmarks",
            benchmarks(report.arms, colours),
            "Benchmarks beside golden and proxy",
            "Tasks of lm-evaluation-harness (dotted, right axis) over steps, with golden (solid) and the proxy "
            f"(dashed) in {unit(report.arms)}. Bars: standard error.",
            curves=("golden", "proxy"),
        )
    if _any(curves, "train_loss"):
        yield rendered(
            "train_loss",
            curve(report.arms, "train_loss", loss_label(report.arms), colours),
            "Training loss",
            "On the responses that are trained on; averaged over bins of steps, both axes logarithmic.",
            curves=("train_loss",),
        )
    if any(len(run.suspicion.deciding.series) for run in report.runs):
        yield rendered(
            "slope_ratio",
            slope_ratios(report.arms, colours),
            *_ratio_texts(report),
            curves=("fresh", "proxy", "monitor"),
        )


def _distance(report: ReportInput) -> str:
    """What the proxy measures."""
    if unit(report.arms) == "nats per byte":
        return "log P(teacher) − log P(student) of the teacher’s responses"
    return "KL(teacher‖student)"


def _ratio_texts(report: ReportInput) -> tuple[str, str]:
    """Title and caption of the slope ratios that decide."""
    deciding = {run.suspicion.decided_by for run in report.runs if len(run.suspicion.deciding.series)}
    name = deciding.pop() if len(deciding) == 1 else "slope ratio"
    others = "other responses of the teacher to the training prompts" if "fresh" in name else "held-out prompts"
    return (
        f"{name[0].upper()}{name[1:]}",
        f"A sign that needs no oracle: progress on {others} over progress on the training responses, both in log, "
        "since an evaluation a fifth of the steps before. Near 1 the student learns its task; near 0 it memorises. "
        "Ring: the alarm.",
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
    )


def _golden(report: ReportInput, colours: Sequence[Colour], *, beside_plane: bool) -> RenderedFigure:
    band = "Band: 95 % interval over prompts of the ratio to the point at golden’s minimum (ring)."
    if report.has_seeds:
        band = "Line and band: median and range of the seeds."
    size = SIZE if beside_plane else SMALL  # alone, it stands in one row with proxy and loss
    return rendered(
        "golden",
        golden(report.arms, colours, size=size),
        f"Golden: {golden_meaning(report.golden_column)}",
        "What one really wants, on held-out prompts; lower is better. "
        f"The label is the rise from minimum to end. {band} The steep start is cropped.",
        curves=("golden", "baseline"),
    )


def _any(curves: Sequence[Curves], *names: CurveName) -> bool:
    return any(all(len(one.of(name)) for name in names) for one in curves)
