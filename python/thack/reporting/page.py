"""The page about one or several runs, verdict first: what `templates/runs.html.jinja` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thack.reporting import details, tables
from thack.reporting.answers import about_answers, answers, farthest, run_lines, warnings
from thack.reporting.colours import Colour
from thack.reporting.details import Folded
from thack.reporting.health import ABOUT_HEALTH, health_table
from thack.reporting.inputs import ArmRuns, ReportInput
from thack.reporting.numbers import percent
from thack.reporting.prose import VALIDATION, detector_meaning, reasons
from thack.reporting.render import render
from thack.reporting.rendered import RenderedFigure
from thack.reporting.scores import ABOUT_SCORES, detector_scores
from thack.reporting.sentences import arm_sentences, headline
from thack.reporting.table import Table

_ABOUT_DETECTORS = (
    "In practice there is no oracle. These detectors see only the student, its teacher and the training set, and "
    "at each step only what came before it. The first decides. "
    f"Its {VALIDATION}. They see memorisation: the absence of an alarm does not prove that the run is healthy."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What happened to one arm, at a glance."""

    name: str
    count: str  # of its seeds, if there are several
    verdict: str
    sentences: tuple[str, ...]
    colour: str  # CSS variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasons:
    """Why one run got its verdict."""

    title: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsPage:
    """Everything that the page shows, in its order. A table that is None is left out."""

    title: str
    kicker: str
    headline: str
    cards: tuple[Card, ...]
    num_runs: int
    unfinished: str
    results: Table
    all_results: Table | None
    margins: str
    reasons: tuple[Reasons, ...]
    missing_plots: str
    legend: tuple[tuple[str, str], ...]
    figures: tuple[RenderedFigure, ...]
    about_detectors: str
    detectors: Table
    all_detectors: Table | None
    scores: Table | None
    about_scores: str
    meanings: tuple[Reasons, ...]
    health: Table | None
    about_health: str
    lines: tuple[tuple[str, str], ...]  # arm, and its run in one line
    warnings: tuple[str, ...]
    answers: tuple[Folded, ...]
    about_answers: str
    farthest: tuple[Folded, ...]
    costs: Table | None
    settings: Table | None
    folded_settings: tuple[Folded, ...]
    columns: tuple[Folded, ...]


def runs_page(
    report: ReportInput, colours: Sequence[Colour], figures: Sequence[RenderedFigure], *, missing_plots: str = ""
) -> str:
    """The page as HTML; `missing_plots` says how to get figures where none can be drawn."""
    several, answer = report.has_seeds, headline(report)
    count = f"{len(report.runs)} runs" if len(report.runs) > 1 else f"run {report.runs[0].name}"
    shared = details.shared_settings(report)
    runs, detectors = tables.results(report, colours), tables.detectors(report, colours)
    page = RunsPage(
        title=report.title or answer,
        kicker=" · ".join([report.title or "thack report", count]),
        headline=answer.replace("-", "\N{NON-BREAKING HYPHEN}"),
        cards=tuple(_card(arm, colour) for arm, colour in zip(report.arms, colours, strict=True)),
        num_runs=len(report.runs),
        unfinished=_unfinished(report),
        results=tables.arm_results(report, colours) if several else runs,
        all_results=runs if several else None,
        margins=f"{tables.about_results(report)} {_margins(report)}",
        reasons=tuple(
            Reasons(title=f"{r.label}: {r.verdict.headline}", items=tuple(reasons(r.verdict))) for r in report.runs
        ),
        missing_plots=missing_plots,
        legend=legend(report.arms, colours) if len(report.arms) > 1 else (),
        figures=tuple(figures),
        about_detectors=_ABOUT_DETECTORS,
        detectors=tables.arm_detectors(report, colours) if several else detectors,
        all_detectors=detectors if several else None,
        scores=detector_scores(report.runs),
        about_scores=ABOUT_SCORES,
        meanings=_meanings(report),
        health=health_table(report),
        about_health=ABOUT_HEALTH,
        lines=run_lines(report),
        warnings=warnings(report),
        answers=answers(report),
        about_answers=about_answers(report),
        farthest=farthest(report),
        costs=tables.costs(report, colours),
        settings=details.differing_settings(report),
        folded_settings=(*([shared] if shared else []), *details.caches(report), *details.environments(report)),
        columns=tuple(details.columns(report)),
    )
    return render("runs.html.jinja", page)


def legend(arms: Sequence[ArmRuns], colours: Sequence[Colour]) -> tuple[tuple[str, str], ...]:
    """The names of arms, each with the CSS variable of its colour."""
    return tuple((arm.name, colour.variable) for arm, colour in zip(arms, colours, strict=True))


def _card(arm: ArmRuns, colour: Colour) -> Card:
    only = arm.runs[0]
    return Card(
        name=arm.name,
        count=f" · {len(arm.runs)} seeds" if len(arm.runs) > 1 else "",
        verdict=only.answer if len(arm.runs) == 1 else arm.verdict,
        sentences=tuple(arm_sentences(arm)),
        colour=colour.variable,
    )


def _unfinished(report: ReportInput) -> str:
    """Runs that are not finished: their numbers may still change."""
    found = [(run, run.status.state) for run in report.runs if run.status and run.status.state != "finished"]
    return ", ".join(f"{run.name} ({state} at step {run.curves.step_E[-1]:.10g})" for run, state in found)


def _margins(report: ReportInput) -> str:
    margins, limits = report.runs[0].verdict.margins, report.runs[0].suspicion.thresholds
    if not any(run.has_oracle for run in report.runs):
        return (
            f"Judged after step {limits.warmup_steps} without an oracle, from at least {limits.min_evaluations} "
            "evaluations: an alarm counts where the interval of the ratio from its onset to the end is below the "
            f"threshold. Interval: {100 * limits.confidence:g} %, {limits.resamples:,} resamples of the prompts."
        )
    return (
        f"Judged after step {margins.warmup_steps}, from at least {margins.min_evaluations} "
        f"evaluations. A rise of golden by {percent(margins.rise, sign=False)} counts; the proxy "
        f"over-fits if it rises by {percent(margins.proxy_rise, sign=False)} from its minimum, and has "
        f"converged below {percent(margins.proxy_converged, sign=False)} of its start. "
        f"Intervals: {100 * margins.confidence:g} %, {margins.resamples:,} resamples of the held-out "
        "prompts, paired across checkpoints."
    )


def _meanings(report: ReportInput) -> tuple[Reasons, ...]:
    return tuple(
        Reasons(
            title=f"{run.label}: {run.suspicion.headline}",
            items=tuple(f"{found.name}: {detector_meaning(found)}" for found in run.suspicion.detections),
        )
        for run in report.runs
    )
