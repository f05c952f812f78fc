"""A grid's page: which claims hold first, then each figure with its numbers, then what it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from thack.files import flattened
from thack.reporting import tables
from thack.reporting.effects import Claim
from thack.reporting.grid import Grid
from thack.reporting.grid_figures import Plate
from thack.reporting.health import health_table
from thack.reporting.html import folded, section, table, tag, text
from thack.reporting.page import document
from thack.reporting.prose import percent
from thack.reporting.runs import Subject, shown
from thack.reporting.scores import detector_scores
from thack.reporting.style import INSTALL
from thack.reporting.words import GLOSSARY

BIBTEX = """@inproceedings{tiapkin2025teacherhacking,
  title     = {On Teacher Hacking in Language Model Distillation},
  author    = {Tiapkin, Daniil and Calandriello, Daniele and Ferret, Johan and Perrin, Sarah and
               Vieillard, Nino and Ram{\\'e}, Alexandre and Blondel, Mathieu},
  booktitle = {International Conference on Machine Learning},
  year      = {2025},
  note      = {arXiv:2502.02671}
}"""
_INTRO = (
    "A large model, the oracle, plays the truth. A teacher learns from it, imperfectly, and a small student is trained "
    "to imitate the teacher. The student can come closer to its teacher and at the same time farther from the truth: "
    "then it has learned the teacher’s mistakes. That is teacher hacking. This page shows when it happens, what "
    "makes it worse and what prevents it, measured in runs of one experiment that differ in one thing at a time."
)
_READING = (
    "A claim holds where the whole 95 % interval over seeds lies on its side of the bound, does not hold where all of "
    "it lies on the other side, and is inconclusive in between. Few seeds make wide intervals: with three, the mean "
    "± 2.5 standard deviations. A rise counts from 3 % on, because healthy controls rose by up to 2.4 %. "
    "Every arm takes the same number of optimizer steps."
)


def render_grid(grid: Grid, plates: Sequence[Plate], svgs: Mapping[str, str]) -> str:
    """`svgs` are the panels by name; empty without matplotlib."""
    told = [claim for plate in plates for claim in plate.claims]
    cells, seeds = len(grid.rows), len({row["seed"] for row in grid.rows})
    kicker = f"{grid.title or 'thack experiment'} · {cells} runs · {seeds} seed{'s' if seeds > 1 else ''}"
    head = tag("header", tag("p", text(kicker), class_="kicker"), tag("h1", text(headline(told))))
    body = [
        tag("p", text(_INTRO), class_="intro"),
        _missing(grid),
        section("claims", "Claims", _claims_table(told), tag("p", text(_READING), class_="note")),
        *(_plate(plate, svgs) for plate in plates),
        _detectors(grid),
        section("health", "Health of the students", health_table(_subject(grid))),
        section("costs", "Costs", _costs(grid)),
        section("settings", "Settings", _settings(grid), tables.environment(_subject(grid))),
        section(
            "glossary", "Words", tag("dl", *(tag("dt", text(w)) + tag("dd", text(m)) for w, m in GLOSSARY.items()))
        ),
        section("cite", "The paper", tag("pre", tag("code", text(BIBTEX)))),
    ]
    footer = tag("footer", text("Written by thack. Numbers behind each figure: plots/*.csv beside this file."))
    return document(grid.title or "thack experiment", head + tag("main", *body) + footer)


def headline(told: Sequence[Claim]) -> str:
    """The answer, in one sentence."""
    if not told:
        return "No claim can be judged yet"
    counts = {answer: sum(claim.answer == answer for claim in told) for answer in ("holds", "does not hold")}
    open_ = len(told) - sum(counts.values())
    parts = [f"{counts['holds']} of {len(told)} claims hold at this size"]
    if counts["does not hold"]:
        parts.append(f"{counts['does not hold']} do{'es' if counts['does not hold'] == 1 else ''} not")
    if open_:
        parts.append(f"{open_} {'is' if open_ == 1 else 'are'} inconclusive")
    return "; ".join(parts)


def _claims_table(told: Sequence[Claim]) -> str:
    rows = [
        [
            text(claim.figure),
            text(claim.text),
            tag("strong", text(_number(claim.effect.mean, claim.unit))) + tag("small", f" {text(claim.measure)}"),
            text(_interval(claim)),
            str(len(claim.effect.by_seed)),
            tag("span", text(claim.answer), class_=f"pill {claim.answer.replace(' ', '-')}"),
        ]
        for claim in told
    ]
    head = ["figure", "claim", "measured", "95 % over seeds", "seeds", "answer"]
    return table(head, rows, class_="claims stacked") if rows else ""


def _interval(claim: Claim) -> str:
    low, high = claim.effect.low, claim.effect.high
    return "–" if low is None or high is None else f"{_number(low, claim.unit)} … {_number(high, claim.unit)}"


def _number(value: float, unit: str) -> str:
    if unit == "%":
        return percent(value)
    shown_ = {"points": f"{100 * value:+.1f} points", "nats": f"{value:+.3f} nats", "runs": f"{value:+.2f}"}[unit]
    return shown_.replace("-", "−")


def _plate(plate: Plate, svgs: Mapping[str, str]) -> str:
    drawn = [panel for panel in plate.panels if panel.name in svgs]
    figures = [
        tag(
            "figure",
            tag("h3", text(panel.title)),
            svgs[panel.name],
            tag("figcaption", text(panel.caption)),
            class_="large" if len(drawn) == 1 and plate.name == "F4" else "small",
        )
        for panel in drawn
    ]
    legend = tag(
        "p",
        *(
            tag("span", tables.swatch(colour), text(arm.name))
            for arm, colour in zip(plate.arms, plate.colours, strict=True)
        ),
        class_="legend",
    )
    plots = tag("div", *figures, class_="figures") if figures else tag("p", "Figures: ", tag("code", text(INSTALL)))
    subject = Subject(title=None, arms=plate.arms)
    return section(
        plate.name,
        plate.title,
        tag("p", text(f"The paper: {plate.says}" if plate.name not in ("target", "once", "axes") else plate.says)),
        legend,
        plots,
        folded("its claims", _claims_table(plate.claims)),
        folded("its arms", tables.arm_results(subject, plate.colours), tables.results(subject, plate.colours)),
        tag("p", "Numbers: ", tag("code", text(f"plots/{plate.name}.csv")), class_="note"),
    )


def _detectors(grid: Grid) -> str:
    """All runs together, then each task on its own: a threshold that was set on one is tried on the others there."""
    every = detector_scores(_subject(grid))
    if not every:
        return ""
    tasks = list(dict.fromkeys(arm.axes["task"] for arm in grid.arms))
    by_task = [
        folded(
            f"task {task}",
            detector_scores(Subject(title=None, arms=tuple(arm.arm for arm in grid.arms if arm.axes["task"] == task))),
        )
        for task in (tasks if len(tasks) > 1 else [])
    ]
    return section("detectors", "Without an oracle", every, *by_task)


def _missing(grid: Grid) -> str:
    """Cells that failed or are not there yet: what follows rests on the others."""
    failed = [row for row in grid.unfinished if row["state"] == "failed"]
    told = []
    if failed:
        rows = [[str(row["cell"]), text(row["arm"]), str(row["seed"]), text(row["error"] or "")] for row in failed]
        told.append(folded(f"{len(failed)} failed", table(["cell", "arm", "seed", "error"], rows)))
    waiting = len(grid.unfinished) - len(failed)
    if waiting or failed:
        words = (
            f"{len(grid.rows) - len(grid.unfinished)} of {len(grid.rows)} cells are finished; the claims rest on those."
        )
        return tag("div", tag("p", text(words)), *told, class_="warning")
    return ""


def _costs(grid: Grid) -> str:
    stages: Mapping[str, Mapping[str, float]] = grid.summary.get("stages", {})
    rows = [
        [
            text(name),
            f"{entry['count']:g}",
            f"{entry['cpu_seconds']:,.0f}",
            f"{entry['cpu_seconds'] / entry['count']:,.1f}",
        ]
        for name, entry in stages.items()
    ]
    total = float(grid.summary.get("cpu_seconds", 0.0))
    if not rows:
        return ""
    words = (
        f"{total / 60:,.1f} minutes of processor time in all, with every stage counted once; on two quiet cores about "
        f"{total / 120:,.1f} minutes."
    )
    head = ["stage", "how many", "processor seconds", "each"]
    return tag("p", text(words)) + table(head, rows, class_="numbers")


def _settings(grid: Grid) -> str:
    flat = flattened(grid.summary.get("settings", {}))
    rows = [[tag("code", text(key)), tag("code", text(shown(value)))] for key, value in flat.items()]
    return folded(f"{len(rows)} settings", table(["setting", "value"], rows))


def _subject(grid: Grid) -> Subject:
    return Subject(title=grid.title, arms=tuple(arm.arm for arm in grid.arms))
