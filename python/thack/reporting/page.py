"""The page: one HTML file that needs nothing else, verdict first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from thack.detection import VALIDATION, Margins
from thack.reporting import tables
from thack.reporting.colours import Colour, variables
from thack.reporting.health import health_table
from thack.reporting.html import folded, section, tag, text
from thack.reporting.panels import Drawn
from thack.reporting.prose import percent
from thack.reporting.runs import Arm, Subject
from thack.reporting.scores import detector_scores
from thack.reporting.style import INSTALL, available
from thack.reporting.words import GLOSSARY, arm_sentences, headline


def render(subject: Subject, colours: Sequence[Colour], drawn: Sequence[Drawn], svgs: Mapping[str, str]) -> str:
    """`svgs` are the figures by name; empty without matplotlib."""
    body = "".join(
        [
            _head(subject),
            tag("main", *_sections(subject, colours, drawn, svgs)),
            tag("footer", text("Written by thack. Numbers behind each figure: plots/*.csv beside this file.")),
        ]
    )
    return document(subject.title or headline(subject), body)


def document(title: str, body: str) -> str:
    """The whole file around a body: title, colours of both schemes, style."""
    style = (
        f":root{{color-scheme:light dark;{variables(dark=False)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{variables(dark=True)}}}}}"
        + files("thack.reporting").joinpath("report.css").read_text(encoding="utf-8")
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{style}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _head(subject: Subject) -> str:
    count = f"{len(subject.runs)} runs" if len(subject.runs) > 1 else f"run {subject.runs[0].name}"
    kicker = " · ".join([subject.title or "thack report", count])
    return tag(
        "header",
        tag("p", text(kicker), class_="kicker"),
        tag("h1", text(headline(subject).replace("-", "\u2011"))),
    )


def _sections(
    subject: Subject, colours: Sequence[Colour], drawn: Sequence[Drawn], svgs: Mapping[str, str]
) -> list[str]:
    margins = subject.runs[0].verdict.margins
    return [
        tag(
            "div",
            *(_card(arm, colour) for arm, colour in zip(subject.arms, colours, strict=True)),
            class_="cards",
        ),
        section(
            "results",
            "The numbers",
            _unfinished(subject),
            _results(subject, colours),
            _margins(margins),
            _reasons(subject),
        ),
        section("figures", "The curves", _figures(subject, colours, drawn, svgs)),
        section(
            "detectors",
            "Signs that need no oracle",
            tag("p", text(_DETECTORS)),
            _detectors(subject, colours),
            detector_scores(subject),
            _meanings(subject),
        ),
        section("health", "Health of the students", health_table(subject)),
        section("examples", "What they wrote", tables.examples(subject)),
        section("costs", "Costs", tables.costs(subject, colours)),
        section("settings", "Settings", tables.settings(subject), tables.environment(subject)),
        section("columns", "Every column", tables.columns(subject)),
        section("glossary", "Words", _glossary()),
    ]


_DETECTORS = (
    "In practice there is no oracle. These detectors see only the student, its teacher and the training set, and "
    "at each step only what came before it. The first decides. "
    f"Its {VALIDATION}. They see memorisation: no alarm is no proof of health."
)


def _results(subject: Subject, colours: Sequence[Colour]) -> str:
    runs = tables.results(subject, colours)
    if len(subject.runs) == len(subject.arms):
        return runs
    return tables.arm_results(subject, colours) + folded(f"all {len(subject.runs)} runs", runs)


def _detectors(subject: Subject, colours: Sequence[Colour]) -> str:
    runs = tables.detectors(subject, colours)
    if len(subject.runs) == len(subject.arms):
        return runs
    return tables.arm_detectors(subject, colours) + folded(f"all {len(subject.runs)} runs", runs)


def _card(arm: Arm, colour: Colour) -> str:
    only = arm.runs[0]
    name = only.suspicion.name if len(arm.runs) == 1 and not only.has_oracle else arm.verdict
    count = f" · {len(arm.runs)} seeds" if len(arm.runs) > 1 else ""
    return tag(
        "article",
        tag("h3", tables.swatch(colour), text(arm.name), tag("small", text(count)), tables.pill(name)),
        *(tag("p", text(sentence)) for sentence in arm_sentences(arm)),
        style=f"--arm:var(--{colour.variable})",
    )


def _figures(subject: Subject, colours: Sequence[Colour], drawn: Sequence[Drawn], svgs: Mapping[str, str]) -> str:
    if not drawn and not available():
        return tag("p", "There are no figures: matplotlib is not installed. Type ", tag("code", text(INSTALL)), ".")
    legend = (
        ""
        if len(subject.arms) == 1
        else tag(
            "p",
            *(
                tag("span", tables.swatch(colour), text(arm.name))
                for arm, colour in zip(subject.arms, colours, strict=True)
            ),
            class_="legend",
        )
    )
    figures = [
        tag(
            "figure",
            tag("h3", text(one.title)),
            svgs[one.name],
            tag("figcaption", text(one.caption)),
            class_="large" if one.name in ("plane", "golden") else "small",
        )
        for one in drawn
    ]
    return legend + tag("div", *figures, class_="figures")


def _unfinished(subject: Subject) -> str:
    """Numbers of a run that still goes on, or was stopped, are not its last word."""
    found = [(run, run.status.state) for run in subject.runs if run.status and run.status.state != "finished"]
    told = ", ".join(f"{run.name} ({state} at step {run.curves.step_E[-1]:.10g})" for run, state in found)
    return tag("p", text(f"Not finished: {told}. What follows may change."), class_="warning") if found else ""


def _margins(margins: Margins) -> str:
    return tag(
        "p",
        text(
            f"Judged after step {margins.warmup_steps}, from at least {margins.min_evaluations} "
            f"evaluations. A rise of golden by {percent(margins.rise, sign=False)} counts; the proxy "
            f"over-fits if it rises by {percent(margins.proxy_rise, sign=False)} from its minimum, and has "
            f"converged below {percent(margins.proxy_converged, sign=False)} of its start. "
            f"Intervals: {100 * margins.confidence:g} %, {margins.resamples:,} resamples of the held-out "
            "prompts, paired across checkpoints."
        ),
        class_="note",
    )


def _reasons(subject: Subject) -> str:
    items = []
    for run in subject.runs:
        label = run.arm if run.seed is None else f"{run.arm}, seed {run.seed}"
        reasons = tag("ul", *(tag("li", text(reason)) for reason in run.verdict.reasons))
        items.append(tag("h4", text(f"{label}: {run.verdict.headline}")) + reasons)
    return folded("why, run by run", *items)


def _meanings(subject: Subject) -> str:
    items = []
    for run in subject.runs:
        label = run.arm if run.seed is None else f"{run.arm}, seed {run.seed}"
        found = tag("ul", *(tag("li", text(f"{d.name}: {d.meaning}")) for d in run.suspicion.detections))
        items.append(tag("h4", text(f"{label}: {run.suspicion.headline}")) + found)
    return folded("what each detector says, run by run", *items)


def _glossary() -> str:
    return tag("dl", *(tag("dt", text(word)) + tag("dd", text(meaning)) for word, meaning in GLOSSARY.items()))
