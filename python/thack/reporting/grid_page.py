"""A grid's page: which claims hold first, then each figure with its numbers, then settings and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from thack.errors import plural
from thack.files import flattened
from thack.reporting import details, tables
from thack.reporting.details import Folded
from thack.reporting.grid import Grid
from thack.reporting.grid_arms import arm_comparison, arm_costs
from thack.reporting.grid_figures import PaperFigure
from thack.reporting.health import ABOUT_HEALTH, health_table
from thack.reporting.inputs import ReportInput
from thack.reporting.numbers import percent
from thack.reporting.page import legend
from thack.reporting.render import render
from thack.reporting.rendered import RenderedFigure
from thack.reporting.scores import ABOUT_SCORES, detector_scores
from thack.reporting.size_law import about_law, law_table
from thack.reporting.table import DASH, Row, Span, Table, note, pill, strong, table
from thack.schema.experiment import ClaimResult, Effect, StageCosts, Summary, Unit

_CITATION = """@inproceedings{tiapkin2025teacherhacking,
  title     = {On Teacher Hacking in Language Model Distillation},
  author    = {Tiapkin, Daniil and Calandriello, Daniele and Ferret, Johan and Perrin, Sarah and
               Vieillard, Nino and Ram{\\'e}, Alexandre and Blondel, Mathieu},
  booktitle = {International Conference on Machine Learning},
  year      = {2025},
  note      = {arXiv:2502.02671}
}"""
_INTRO = (
    "A large model, the oracle, is the ground truth. A teacher learns from it, imperfectly, and a small student is "
    "trained to imitate the teacher. The student can come closer to its teacher and at the same time farther from the "
    "truth: then it has learned the teacher’s mistakes. That is teacher hacking. This page shows when it happens, what "
    "makes it worse and what prevents it, measured in runs of one experiment that differ in one thing at a time."
)
_ABOUT_CLAIMS = (
    "A claim holds if the whole 95 % interval over seeds is on its side of the bound. It does not hold if all of the "
    "interval is on the other side, and is inconclusive in between. Few seeds make wide intervals: with three, the "
    "mean ± 2.5 standard deviations. A rise counts from 3 % on, because healthy controls rose by up to 2.4 %. "
    "Every arm takes the same number of optimizer steps."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSection:
    """One figure of the paper, as the page shows it."""

    name: str
    title: str
    summary: str
    legend: tuple[tuple[str, str], ...]
    plots: tuple[RenderedFigure, ...]
    claims: Table | None
    about_results: str
    arms: Table
    runs: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPage:
    """Everything that the page shows, in its order. A table that is None is left out."""

    title: str
    kicker: str
    headline: str
    intro: str
    progress: str
    failed: Folded | None
    claims: Table | None
    information: Table | None
    gaps: Table | None
    laws: tuple[tuple[str, Table], ...]
    about_claims: str
    arms: Table | None
    figures: tuple[FigureSection, ...]
    missing_plots: str
    scores: Table | None
    about_scores: str
    scores_by_task: tuple[Folded, ...]
    health: Table | None
    about_health: str
    total_cost: str
    costs: Table | None
    arm_costs: Table | None
    folded_settings: tuple[Folded, ...]
    citation: str


def grid_page(grid: Grid, figures: Sequence[PaperFigure], *, missing_plots: str = "") -> str:
    """The page as HTML; `missing_plots` says how to get plots where none can be drawn."""
    found = [claim for figure in figures for claim in figure.claims]
    summary = grid.summary
    title, cells, seeds = summary.title or "thack experiment", len(summary.runs), len({c.seed for c in summary.runs})
    report = ReportInput(title=title, arms=tuple(arm.runs for arm in grid.arms))
    scores = detector_scores(report.runs)
    can_claim = any(figure.name != "axes" for figure in figures) or not figures
    page = GridPage(
        title=title,
        kicker=f"{title} · {plural(cells, 'run')} · {plural(seeds, 'seed')}",
        headline=headline(found) if found or can_claim else _verdicts(report),
        intro=_INTRO,
        progress=_progress(grid),
        failed=_failed(grid),
        claims=_claims(found),
        information=_information(summary),
        gaps=_gaps(summary),
        laws=tuple((about_law(law), law_table(law)) for law in summary.laws),
        about_claims=_ABOUT_CLAIMS if can_claim else "",
        arms=arm_comparison(grid),
        figures=tuple(_section(figure) for figure in figures),
        missing_plots=missing_plots,
        scores=scores,
        about_scores=ABOUT_SCORES,
        scores_by_task=tuple(_scores_by_task(grid)) if scores else (),
        health=health_table(report),
        about_health=ABOUT_HEALTH,
        total_cost=_total_cost(summary.cpu_seconds),
        costs=_costs(summary.stages),
        arm_costs=arm_costs(summary),
        folded_settings=(_settings(summary), *details.environments(report)),
        citation=_CITATION,
    )
    return render("grid.html.jinja", page)


def headline(found: Sequence[ClaimResult]) -> str:
    """The answer, in one sentence."""
    if not found:
        return "No claim can be judged yet"
    counts = {answer: sum(claim.answer == answer for claim in found) for answer in ("holds", "does not hold")}
    open_ = len(found) - sum(counts.values())
    parts = [f"{counts['holds']} of {len(found)} claims hold at this size"]
    if counts["does not hold"]:
        parts.append(f"{counts['does not hold']} do{'es' if counts['does not hold'] == 1 else ''} not")
    if open_:
        parts.append(f"{open_} {'is' if open_ == 1 else 'are'} inconclusive")
    return "; ".join(parts)


def _verdicts(report: ReportInput) -> str:
    """How many runs got which verdict, where no claim is asked for."""
    counts = Counter(run.verdict.name for run in report.runs)
    return f"{plural(len(report.runs), 'run')}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _claims(found: Sequence[ClaimResult]) -> Table | None:
    head = ["figure", "claim", "measured", "95 % over seeds", "seeds", "answer"]
    rows: list[Row] = [
        [
            claim.figure,
            (Span(claim.text), *note(f" {claim.reason}" if claim.reason else "")),
            strong(_number(claim.effect.mean, claim.unit), f" {claim.measure}"),
            _interval(claim),
            str(len(claim.effect.values)),
            pill(claim.answer),
        ]
        for claim in found
    ]
    return table(head, rows, "claims stacked") if rows else None


def _interval(claim: ClaimResult) -> str:
    low, high = claim.effect.low, claim.effect.high
    return DASH if low is None or high is None else f"{_number(low, claim.unit)} … {_number(high, claim.unit)}"


def _number(value: float, unit: Unit) -> str:
    if unit == "%":
        return percent(value)
    written = {"points": f"{100 * value:+.1f} points", "nats": f"{value:+.3f} nats", "runs": f"{value:+.2f}"}[unit]
    return written.replace("-", "−")


def _information(summary: Summary) -> Table | None:
    """How much of a response's information comes from its prompt, task by task."""
    head = ["task", "nats a response token, prompts shuffled", "right prompts", "from the prompt", "share", "seeds"]
    rows: list[Row] = [
        [
            one.task,
            f"{one.without_prompt.mean:.2f}",
            f"{one.with_prompt.mean:.2f}",
            strong(f"{one.from_prompt.mean:.2f}"),
            strong(f"{100 * one.share.mean:.0f} %"),
            str(len(one.share.values)),
        ]
        for one in summary.information
    ]
    return table(head, rows, "numbers stacked") if rows else None


def _gaps(summary: Summary) -> Table | None:
    """Where each loss of each student ends, at its best learning rate."""
    head = ["student’s tokenizer, loss, kept of the teacher", "gap, nats per byte", "95 % over seeds"]
    head += ["gain over the cross-entropy", "95 % over seeds", "learning rates", "seeds"]
    rows: list[Row] = [
        [
            ", ".join(part for part in (one.tokenizer or "the teacher’s", one.loss, one.target) if part),
            strong(f"{one.gap.mean:.3f}"),
            _range(one.gap),
            DASH if one.gain is None else strong(f"{one.gain.mean:+.3f}".replace("-", "−")),
            DASH if one.gain is None else _range(one.gain),
            ", ".join(f"{rate:g}" for rate in dict.fromkeys(one.rates)),
            str(len(one.gap.values)),
        ]
        for one in summary.gaps
    ]
    return table(head, rows, "numbers stacked") if rows else None


def _range(effect: Effect) -> str:
    if effect.low is None or effect.high is None:
        return DASH
    return f"{effect.low:.3f} … {effect.high:.3f}".replace("-", "−")


def _section(figure: PaperFigure) -> FigureSection:
    report = ReportInput(title=None, arms=figure.arms)
    return FigureSection(
        name=figure.name,
        title=figure.title,
        summary=figure.summary,
        legend=legend(figure.arms, figure.colours) if figure.has_legend else (),
        plots=figure.plots,
        claims=_claims(figure.claims),
        about_results=tables.about_results(report),
        arms=tables.arm_results(report, figure.colours),
        runs=tables.results(report, figure.colours),
    )


def _scores_by_task(grid: Grid) -> list[Folded]:
    """The detectors' scores for each task alone: a threshold that was set on one is tried on the others there."""
    tasks = list(dict.fromkeys(arm.axes.task for arm in grid.arms))
    found = []
    for task in tasks if len(tasks) > 1 else []:
        runs = [run for arm in grid.arms if arm.axes.task == task for run in arm.runs.runs]
        if (scores := detector_scores(runs)) is not None:
            found.append(Folded(title=f"task {task}", table=scores))
    return found


def _progress(grid: Grid) -> str:
    """How many cells are finished; empty if all are."""
    finished = len(grid.summary.runs) - len(grid.unfinished)
    if not grid.unfinished:
        return ""
    return f"{finished} of {len(grid.summary.runs)} cells are finished; the claims rest on those."


def _failed(grid: Grid) -> Folded | None:
    failed = [cell for cell in grid.unfinished if cell.state == "failed"]
    rows: list[Row] = [[str(cell.cell), cell.arm, str(cell.seed), cell.error or ""] for cell in failed]
    title = f"{len(failed)} failed"
    return Folded(title=title, table=table(["cell", "arm", "seed", "error"], rows)) if failed else None


def _total_cost(seconds: float) -> str:
    return (
        f"{seconds / 60:,.1f} minutes of processor time in all, with every stage counted once; on two quiet cores "
        f"about {seconds / 120:,.1f} minutes."
    )


def _costs(stages: Sequence[StageCosts]) -> Table | None:
    rows: list[Row] = [
        [one.name, str(one.count), f"{one.cpu_seconds:,.0f}", f"{one.cpu_seconds / one.count:,.1f}"] for one in stages
    ]
    return table(["stage", "count", "processor seconds", "processor seconds each"], rows, "numbers") if rows else None


def _settings(summary: Summary) -> Folded:
    flat = flattened(summary.settings)
    return Folded(title=plural(len(flat), "setting"), table=details.facts("setting", flat))
