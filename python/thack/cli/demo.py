"""thack demo: the controlled experiment at laptop size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from thack import api
from thack.cli.command import Call, Flag, Given, SettingsCommand
from thack.cli.console import VERDICT_STYLES, number, percent, stdout
from thack.cli.seeds import parse_seeds
from thack.cli.session import emit
from thack.config import ExperimentSettings

if TYPE_CHECKING:
    from thack.experiments.demo import DemoResult

OUT = Annotated[Path | None, typer.Option("--out", help="Output directory; run again to resume. [dim]\\[runs/demo][/]")]
QUICK = Annotated[
    bool | None, typer.Option("--quick", help="Small enough for a smoke test; too short to prove anything.")
]
FLAGS = (Flag(key="seeds", help="seeds, as 0 or 0,3 or 0-4; they share the oracle", parse=parse_seeds),)


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="demo",
        settings=ExperimentSettings,
        run=run,
        flags=FLAGS,
        example="thack demo --seeds 0-4 --out runs/demo",
        set_example="distill.epochs=30",
        parameters={"out": OUT, "quick": QUICK},
        load=load,
    ).add_to(app)


def load(given: Given) -> ExperimentSettings:
    """The recipe of the demo, changed by what was given."""
    name = "quick" if given.values["quick"] else "demo"
    return api.recipe(name, files=given.files, sets=given.sets, overrides=given.overrides)


def run(call: Call[ExperimentSettings]) -> None:
    """Train oracle, teacher and students on Python's own docstrings, and see which student hacks its teacher."""
    result = api.demo(call.values["out"] or Path("runs/demo"), settings=call.settings, progress=call.progress)
    emit(document(result), lambda: _show(result), out=result.report)


def _show(result: DemoResult) -> None:
    """One row per student: golden and proxy metrics, verdict."""
    table = Table("student", "seed", "golden: start, minimum, end", "proxy at minimum → end", "verdict", box=None)
    for arm in result.runs:
        found = arm.verdict
        golden, after = found.golden, found.proxy_change
        curve = "–"
        if golden is not None:
            curve = f"{golden.start:.3f}, {golden.minimum:.3f} @ {golden.minimum_step:.10g}, {golden.end:.3f}"
            curve += f" ({percent(golden.rise)})"
        proxy = "–" if found.proxy is None else f"{number(found.proxy_at_onset, 3)} → {found.proxy.end:.3f}"
        change = "" if after is None else f" ({percent(after)})"
        verdict = Text(found.headline, style=VERDICT_STYLES.get(found.name, "yellow"))
        table.add_row(arm.source, str(arm.seed), curve, proxy + change, verdict)
    stdout().print(table)
    stdout().print(f"{result.seconds:.0f} s · report: {result.report} · next: thack distill --help")


def document(result: DemoResult) -> dict[str, object]:
    """The result as one JSON document."""
    runs = [
        {"arm": arm.source, "seed": arm.seed, "run": str(arm.path), "seconds": arm.seconds, **arm.verdict.dump()}
        for arm in result.runs
    ]
    return {"report": str(result.report), "seconds": result.seconds, "runs": runs}
