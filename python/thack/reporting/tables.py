"""The tables of the page: results, detectors, costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from thack.detection import Detection
from thack.reporting.colours import Colour
from thack.reporting.inputs import COSTS, ArmRuns, JudgedRun, ReportInput, units
from thack.reporting.numbers import decimal, nats, percent, percent_interval
from thack.reporting.prose import alarm_rule, baseline_name
from thack.reporting.table import DASH, Cell, Row, Span, Table, coloured, note, pill, strong, table, without_empty


def results(report: ReportInput, colours: Sequence[Colour]) -> Table:
    """One row per run: the numbers behind its verdict."""
    several = report.has_seeds and any(run.seed is not None for run in report.runs)
    rows: list[Row] = []
    if not any(run.verdict.golden for run in report.runs):
        return _proxy_results(report, colours, several=several)
    head = ["run", *(["seed"] if several else []), "golden: start", "minimum @ step", "end", "rise"]
    head += ["proxy: then → end", baseline_name(report.golden_column), "verdict"]
    for run, colour in _each(report, colours):
        seed = [DASH if run.seed is None else str(run.seed)] if several else []
        rows.append([coloured(colour, run.arm), *seed, *_result(run)])
    return table(head, rows, "results stacked")


def _proxy_results(report: ReportInput, colours: Sequence[Colour], *, several: bool) -> Table:
    """The same of runs without golden: what the proxy did, and what the detectors suspect."""
    head = ["run", *(["seed"] if several else []), "proxy: start", "minimum @ step", "end", "verdict"]
    rows: list[Row] = []
    for run, colour in _each(report, colours):
        seed = [DASH if run.seed is None else str(run.seed)] if several else []
        rows.append([coloured(colour, run.arm), *seed, *_proxy_result(run), pill(run.answer)])
    return table(head, rows, "results stacked")


def _proxy_result(run: JudgedRun) -> list[str]:
    """Start, minimum with its step, and end; of the whole curve where it ends within the warm-up."""
    judged, seen = run.verdict.proxy, run.curves.of("proxy")
    if judged is not None:
        start, low, step, end = judged.start, judged.minimum, judged.minimum_step, judged.end
    elif len(seen):
        lowest = int(np.argmin(seen.value))
        start, low, step, end = (
            float(x) for x in (seen.value[0], seen.value[lowest], seen.step[lowest], seen.value[-1])
        )
    else:
        return [DASH] * 3
    return [nats(start), f"{nats(low)} @ {step:.10g}", nats(end)]


def about_results(report: ReportInput) -> str:
    """What the numbers of the results are in."""
    shown = ["Golden", "proxy", baseline_name(report.golden_column)] if report.golden_column else ["The proxy"]
    names = " and ".join((", ".join(shown[:-1]), shown[-1])) if shown[1:] else shown[0]
    first, *others = units(report.arms).items() or [("nats per token", "")]
    return f"{names} in {first[0]}{''.join(f', of {label} in {name}' for name, label in others)}."


def arm_results(report: ReportInput, colours: Sequence[Colour]) -> Table:
    """One row per arm: medians and ranges over its seeds."""
    over = f"golden’s end − {baseline_name(report.golden_column)}"
    head = ["arm", "seeds", "golden: minimum", "end", "rise", "onset", over, "verdict"]
    rows: list[Row] = [
        [coloured(colour, arm.name), *_arm_result(arm)] for arm, colour in zip(report.arms, colours, strict=True)
    ]
    return without_empty(table(head, rows, "results stacked"))


def _arm_result(arm: ArmRuns) -> Row:
    found = [run.verdict for run in arm.runs]
    golden = [one.golden for one in found if one.golden is not None]
    counts = ", ".join(f"{count} {name}" for name, count in arm.verdicts.items())
    middle, *spread = _spread([100 * one.rise for one in golden if one.rise is not None], "{:+.1f}", " %")
    return [
        str(len(arm.runs)),
        _spread([one.minimum for one in golden]),
        _spread([one.end for one in golden]),
        (Span(middle.text, "strong"), *spread),
        _spread(arm.onsets, "{:.10g}"),
        _spread([one.over_baseline for one in found if one.over_baseline is not None], "{:+.3f}"),
        pill(arm.verdict, f" {counts}"),
    ]


def _spread(values: Sequence[float], form: str = "{:.3f}", unit: str = "") -> Cell:
    """Median, and the range in small."""
    if not values:
        return (Span(DASH),)
    low, middle, high = (
        form.format(value).replace("-", "−") for value in (min(values), np.median(values), max(values))
    )
    return (Span(f"{middle}{unit}"), *note("" if low == high else f" [{low}, {high}]"))


def _result(run: JudgedRun) -> Row:
    found = run.verdict
    golden = found.golden
    if golden is None:
        proxy = f"{nats(found.proxy.start)} → {nats(found.proxy.end)}" if found.proxy is not None else DASH
        return [DASH, DASH, DASH, DASH, proxy, DASH, pill(run.answer)]
    interval = f" {percent_interval(golden.rise_interval)}" if golden.rise_interval is not None else ""
    onset = f" [{found.onset_interval[0]:.10g}, {found.onset_interval[1]:.10g}]" if found.onset_interval else ""
    proxy, baseline = DASH, note("")
    if found.proxy is not None and found.proxy_at_onset is not None:
        proxy = f"{nats(found.proxy_at_onset)} → {nats(found.proxy.end)}"
    if found.baseline is not None:
        side = f" ends {found.side}" if found.side in ("above", "below") else ""
        baseline = (Span(nats(found.baseline)), *note(side))
    return [
        nats(golden.start),
        (Span(f"{nats(golden.minimum)} @ {golden.minimum_step:.10g}"), *note(onset)),
        nats(golden.end),
        strong(percent(golden.rise), interval),
        proxy,
        baseline or DASH,
        pill(found.name),
    ]


def detectors(report: ReportInput, colours: Sequence[Colour]) -> Table:
    """Each detector that needs no oracle, beside the onset that the oracle shows."""
    has_golden = any(run.has_oracle for run in report.runs)
    head = ["run", *_detector_names(report), *(["golden’s onset"] if has_golden else [])]
    rows: list[Row] = []
    for run, colour in _each(report, colours):
        onset = run.verdict.onset_step
        name = coloured(colour, run.label)
        cells = [_detection(found) for found in run.suspicion.detections]
        shown = [DASH if onset is None else f"{onset:.10g}"] if has_golden else []
        rows.append([name, *cells, *shown])
    return table(head, rows, "stacked")


def _detector_names(report: ReportInput) -> list[str]:
    return [f"{found.name}, alarm {alarm_rule(found)}" for found in report.runs[0].suspicion.detections]


def _detection(found: Detection) -> Cell:
    value = "" if found.value is None else f" {decimal(found.value)}"
    alarm: str = found.state
    if found.alarm_step is not None and found.onset_step is not None:
        alarm = f"alarm @ {found.alarm_step:.10g}"
        value += "" if found.onset_step == found.alarm_step else f", from {found.onset_step:.10g}"
    return (Span(alarm, "strong" if found.fired else "plain"), *note(value))


def arm_detectors(report: ReportInput, colours: Sequence[Colour]) -> Table:
    """How often each detector fired in an arm, and when in the median."""
    rows: list[Row] = []
    for arm, colour in zip(report.arms, colours, strict=True):
        by_detector = zip(*(run.suspicion.detections for run in arm.runs), strict=True)
        cells = [_alarms(found) for found in by_detector]
        rows.append([coloured(colour, arm.name), *cells, _spread(arm.onsets, "{:.10g}")])
    return without_empty(table(["arm", *_detector_names(report), "golden’s onset"], rows, "stacked"))


def _alarms(found: Sequence[Detection]) -> Cell:
    steps = [one.alarm_step for one in found if one.alarm_step is not None]
    when = "".join(span.text for span in (Span(" @ "), *_spread(steps, "{:.10g}"))) if steps else ""
    return (Span(f"{len(steps)} of {len(found)}", "strong" if steps else "plain"), *note(when))


def costs(report: ReportInput, colours: Sequence[Colour]) -> Table | None:
    """Totals of each run; the median run of an arm with several seeds. None if no run has any."""
    present = [column for column in COSTS if any(column in run.costs for run in report.runs)]
    if not present:
        return None
    rows: list[Row] = []
    for arm, colour in zip(report.arms, colours, strict=True):
        found = [[run.costs[column] for run in arm.runs if column in run.costs] for column in present]
        rows.append([coloured(colour, arm.name), *(f"{np.median(v):,.0f}" if v else DASH for v in found)])
    first = "arm, per run" if report.has_seeds else "run"
    return table([first, *(COSTS[column] for column in present)], rows, "numbers stacked")


def _each(report: ReportInput, colours: Sequence[Colour]) -> Iterator[tuple[JudgedRun, Colour]]:
    for arm, colour in zip(report.arms, colours, strict=True):
        yield from ((run, colour) for run in arm.runs)
