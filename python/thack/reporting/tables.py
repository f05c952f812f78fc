"""The tables of the page: results, detectors, costs, settings, every column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from thack.detection.curves import Curves
from thack.reporting.colours import Colour
from thack.reporting.html import folded, table, tag, text
from thack.reporting.prose import baseline_name, percent, percent_interval
from thack.reporting.runs import COSTS, Arm, Run, Subject, shown
from thack.schema.metrics import is_bound

DASH = "–"
_ROLES = ("prompt", "oracle", "teacher", "student")


def pill(name: str) -> str:
    return tag("span", text(name), class_=f"pill {name.split()[0]}")


def swatch(colour: Colour) -> str:
    return f'<span class="swatch" style="background:var(--{colour.variable})"></span>'


def results(subject: Subject, colours: Sequence[Colour]) -> str:
    """One row per run: what the verdict rests on."""
    several = any(run.seed is not None for run in subject.runs) and len(subject.runs) > len(subject.arms)
    head = ["run", *(["seed"] if several else []), "golden: start", "minimum @ step", "end", "rise"]
    head += ["proxy: then → end", baseline_name(subject.golden_column), "verdict"]
    rows = []
    for arm, colour in zip(subject.arms, colours, strict=True):
        for run in arm.runs:
            seed = [DASH if run.seed is None else str(run.seed)] if several else []
            rows.append([f"{swatch(colour)}{text(arm.name)}", *seed, *_result(run)])
    return table(head, rows, class_="results stacked")


def arm_results(subject: Subject, colours: Sequence[Colour]) -> str:
    """One row per arm: medians and ranges over its seeds."""
    head = [
        "arm",
        "seeds",
        "golden: minimum",
        "end",
        "rise",
        "onset",
        f"golden’s end − {baseline_name(subject.golden_column)}",
        "verdict",
    ]
    rows = []
    for arm, colour in zip(subject.arms, colours, strict=True):
        found = [run.verdict for run in arm.runs]
        golden = [one.golden for one in found if one.golden is not None]
        counts = ", ".join(f"{count} {text(name)}" for name, count in arm.verdicts.items())
        rows.append(
            [
                f"{swatch(colour)}{text(arm.name)}",
                str(len(arm.runs)),
                _spread([one.minimum for one in golden]),
                _spread([one.end for one in golden]),
                tag("strong", _spread([100 * one.rise for one in golden], "{:+.1f}", " %")),
                _spread(arm.onsets, "{:.10g}"),
                _spread([one.over_line for one in found if one.over_line is not None], "{:+.3f}"),
                pill(arm.verdict) + tag("small", f" {counts}"),
            ]
        )
    return table(head, rows, class_="results stacked")


def _spread(values: Sequence[float], form: str = "{:.3f}", unit: str = "") -> str:
    """Median, and the range in small."""
    if not values:
        return DASH
    low, middle, high = (
        form.format(value).replace("-", "−") for value in (min(values), np.median(values), max(values))
    )
    return f"{middle}{unit}" + ("" if low == high else tag("small", f" [{low}, {high}]"))


def _result(run: Run) -> list[str]:
    found = run.verdict
    golden = found.golden
    if golden is None:
        proxy = f"{found.proxy.start:.3f} → {found.proxy.end:.3f}" if found.proxy is not None else DASH
        return [DASH, DASH, DASH, DASH, proxy, DASH, pill(found.name if run.has_oracle else run.suspicion.name)]
    rise = tag("strong", percent(golden.rise))
    if golden.rise_interval is not None:
        rise += tag("small", " " + percent_interval(golden.rise_interval))
    proxy = DASH
    if found.proxy is not None and found.proxy_at_onset is not None:
        proxy = f"{found.proxy_at_onset:.3f} → {found.proxy.end:.3f}"
    line = DASH
    if found.line is not None:
        line = f"{found.line:.3f}" + tag(
            "small", f" ends {text(found.side)}" if found.side in ("above", "below") else ""
        )
    onset = ""
    if found.onset_interval is not None:
        onset = tag("small", f" [{found.onset_interval[0]:.10g}, {found.onset_interval[1]:.10g}]")
    return [
        f"{golden.start:.3f}",
        f"{golden.minimum:.3f} @ {golden.minimum_step:.10g}{onset}",
        f"{golden.end:.3f}",
        rise,
        proxy,
        line,
        pill(found.name),
    ]


def detectors(subject: Subject, colours: Sequence[Colour]) -> str:
    """Each detector that needs no oracle, beside the onset that the oracle shows."""
    head = ["run", *(found.name for found in subject.runs[0].suspicion.detections), "golden’s onset"]
    rows = []
    for run, colour in _each(subject, colours):
        cells = []
        for found in run.suspicion.detections:
            value = "" if found.value is None else tag("small", f" {found.value:.2f}")
            alarm = text(found.state) if found.alarm_step is None else f"alarm @ {found.alarm_step:.10g}"
            cells.append((tag("strong", alarm) if found.fired else alarm) + value)
        onset = run.verdict.onset_step
        rows.append([_name(run, colour), *cells, DASH if onset is None else f"{onset:.10g}"])
    return table(head, rows, class_="stacked")


def arm_detectors(subject: Subject, colours: Sequence[Colour]) -> str:
    """How often each detector fired in an arm, and when in the median."""
    names = [found.name for found in subject.runs[0].suspicion.detections]
    rows = []
    for arm, colour in zip(subject.arms, colours, strict=True):
        cells = []
        for number in range(len(names)):
            found = [run.suspicion.detections[number] for run in arm.runs]
            steps = [one.alarm_step for one in found if one.alarm_step is not None]
            when = tag("small", f" @ {_spread(steps, '{:.10g}')}") if steps else ""
            cells.append((tag("strong", f"{len(steps)} of {len(found)}") if steps else f"0 of {len(found)}") + when)
        rows.append([f"{swatch(colour)}{text(arm.name)}", *cells, _spread(arm.onsets, "{:.10g}")])
    return table(["arm", *names, "golden’s onset"], rows, class_="stacked")


def costs(subject: Subject, colours: Sequence[Colour]) -> str:
    """Totals of each run; the median run of an arm with several seeds."""
    present = [column for column in COSTS if any(column in run.costs for run in subject.runs)]
    if not present:
        return ""
    rows = []
    for arm, colour in zip(subject.arms, colours, strict=True):
        found = [[run.costs[column] for run in arm.runs if column in run.costs] for column in present]
        cells = [f"{np.median(values):,.0f}" if values else DASH for values in found]
        rows.append([f"{swatch(colour)}{text(arm.name)}", *cells])
    first = "run" if len(subject.runs) == len(subject.arms) else "arm, per run"
    return table([first, *(COSTS[column] for column in present)], rows, class_="numbers")


def _each(subject: Subject, colours: Sequence[Colour]) -> Iterator[tuple[Run, Colour]]:
    for arm, colour in zip(subject.arms, colours, strict=True):
        yield from ((run, colour) for run in arm.runs)


def _name(run: Run, colour: Colour) -> str:
    return f"{swatch(colour)}{text(run.arm)}" + ("" if run.seed is None else tag("small", f" {run.seed}"))


def settings(subject: Subject) -> str:
    """What differs between the arms side by side; what they share folded away."""
    runs = [run for run in subject.runs if run.config]
    if not runs:
        return ""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    differing = [key for key in keys if len({shown(run.config.get(key, "")) for run in runs}) > 1]
    shared = [key for key in keys if key not in differing]
    parts = []
    if differing:
        head = ["setting", *(text(arm.name) for arm in subject.arms)]
        rows = [[tag("code", text(key)), *(_values(arm, key) for arm in subject.arms)] for key in differing]
        parts.append(table(head, rows))
    body = table(["setting", "value"], [[tag("code", text(key)), _setting(runs[0], key)] for key in shared])
    title = f"{len(shared)} settings that all runs share" if len(runs) > 1 else f"{len(shared)} settings"
    return "".join(parts) + folded(title, body)


def _values(arm: Arm, key: str) -> str:
    """A setting of an arm: its value, or its seeds' values as long as they can be read."""
    found = list(dict.fromkeys(_setting(run, key) for run in arm.runs))
    short = sum(map(len, found)) < 40 * 6
    return ", ".join(found) if len(found) == 1 or short else f"{len(found)} values"


def _label(run: Run) -> str:
    return run.arm if run.seed is None else f"{run.arm} {run.seed}"


def _setting(run: Run, key: str) -> str:
    return tag("code", text(shown(run.config[key]))) if key in run.config else DASH


def environment(subject: Subject) -> str:
    found = {shown(dict(run.environment)): run.environment for run in subject.runs if run.environment}
    parts = []
    for number, facts in enumerate(found.values(), start=1):
        rows = [[text(key), tag("code", text(shown(value)))] for key, value in facts.items()]
        title = "environment" if len(found) == 1 else f"environment {number} of {len(found)}"
        parts.append(folded(title, table(["fact", "value"], rows)))
    return "".join(parts)


def columns(subject: Subject) -> str:
    """Every metric column of every run: start, minimum and its step, end, rise."""
    parts = []
    head = ["column", "start", "minimum", "at step", "end", "rise"]
    for run in subject.runs:
        rows = [row for column in _metric_columns(run.curves) if (row := _column(run.curves, column))]
        parts.append(folded(f"all {len(rows)} columns of {_label(run)}", table(head, rows, class_="numbers wide")))
    return "".join(parts)


def _metric_columns(curves: Curves) -> list[str]:
    skipped = {"epoch", "step", *COSTS}
    return [c for c in curves.columns if not is_bound(c) and c not in skipped]


def _column(curves: Curves, column: str) -> list[str] | None:
    value_E = curves.columns[column]
    seen = np.flatnonzero(np.isfinite(value_E))
    if not len(seen):
        return None
    lowest = seen[np.argmin(value_E[seen])]
    start, low, end = (float(value_E[at]) for at in (seen[0], lowest, seen[-1]))
    rise = percent(end / low - 1) if low > 0 else DASH
    return [
        tag("code", text(column)),
        f"{start:.4g}",
        f"{low:.4g}",
        f"{curves.step_E[lowest]:.10g}",
        f"{end:.4g}",
        rise,
    ]


def examples(subject: Subject) -> str:
    """What the models wrote for the same prompts, where a run kept it."""
    run = next((run for run in subject.runs if run.examples), None)
    if run is None:
        return ""
    roles = list(dict.fromkeys(role for row in run.examples for role in row))
    roles.sort(key=lambda role: _ROLES.index(role) if role in _ROLES else len(_ROLES))
    rows = [[text(row.get(role, DASH)) for role in roles] for row in run.examples]
    return table(roles, rows, class_="examples stacked")
