"""thack experiment: the paper's figures as a grid of runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from thack.cli.app import app
from thack.cli.console import STYLES, out, percent, print_json
from thack.cli.demo import parse_seeds
from thack.cli.verbs import KEYS, Command, Json, Quiet, Verbose, epilog, shown_progress
from thack.errors import ThackError, UsageError

if TYPE_CHECKING:
    from thack.config.experiment import ExperimentSettings
    from thack.experiments.forecast import Forecast
    from thack.experiments.grid import GridResult


@app.command("experiment", epilog=epilog("thack experiment laptop --seeds 3 --dry-run"), cls=Command)
def experiment(
    recipe: Annotated[str, typer.Argument(help="laptop, gpu, paper, demo, or a TOML file.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--out", help="Where it all goes; run again to go on. [dim]\\[runs/RECIPE][/]")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="How many seeds, as 3; or which, as 0,3 or 2-4.")] = None,
    figures: Annotated[
        str | None, typer.Option(help="Which: F4,F5,F6,F7,F8,fraction,loss,sizes,target,axes or all.")
    ] = None,
    cell: Annotated[int | None, typer.Option(help="Make this cell only: one task of a Slurm array.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show cells, shared stages, tokens and hours.")] = False,
    array: Annotated[bool, typer.Option("--array", help="Write cells.json for Slurm, and say what to submit.")] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help='A setting, e.g. axes.budget="[1, 4]".', rich_help_panel=KEYS),
    ] = None,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Print the recipe as TOML, and stop.", rich_help_panel=KEYS)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a grid of controlled experiments, and tell which of the paper's claims hold."""
    from thack.config import to_toml

    if cell is not None and (dry_run or array):
        raise UsageError("--cell makes a run; --dry-run and --array make none", hint="give one of them")
    settings = _settings(recipe, seeds, figures, sets or [])
    target = output or Path("runs") / Path(recipe).stem
    if show_settings:
        sys.stdout.write(to_toml(settings, comments=True))
    elif dry_run or array:
        again = [recipe, "--out", str(target)]
        for flag, value in (("--seeds", seeds), ("--figures", figures), *(("--set", one) for one in sets or [])):
            again += [flag, value] if value is not None else []
        _look_ahead(settings, target, again if array else [], as_json=as_json)
    else:
        _run(settings, target, cell, as_json=as_json, quiet=quiet)


def _settings(recipe: str, seeds: str | None, figures: str | None, sets: list[str]) -> ExperimentSettings:
    from thack.experiments.cells import FIGURES
    from thack.experiments.recipe import load_recipe

    names = None if figures is None else figures.replace(",", " ").split()
    if names == ["all"]:
        names = [name for name in FIGURES if name != "axes"]
    overrides = {"seeds": None if seeds is None else count_or_list(seeds), "figures": names}
    return load_recipe(recipe, sets, overrides=overrides)


def count_or_list(text: str) -> list[int]:
    """`3` is three seeds, `0,3` and `2-4` say which."""
    return list(range(int(text))) if text.isdigit() and int(text) > 0 else parse_seeds(text)


def _look_ahead(settings: ExperimentSettings, target: Path, again: Sequence[str], *, as_json: bool) -> None:
    """Print the forecast; with `again`, the words of this command, also what an array needs."""
    from thack.experiments.forecast import forecast, write_plan
    from thack.experiments.plan import plan
    from thack.files import claim_output
    from thack.runtime.threads import threads

    found = forecast(settings, plan(settings, target), threads())
    document: dict[str, Any] = found.to_dict()
    if again:
        claim_output(target, "experiment")
        document["manifest"] = str(write_plan(found, again[0], target))
        document["submit"] = array_commands(found, again)
    if as_json:
        print_json(document)
        return
    show_forecast(found)
    for line in document.get("submit", []):
        out().print(line, markup=False, soft_wrap=True)


def array_commands(found: Forecast, words: Sequence[str]) -> list[str]:
    """What to type on a cluster: the array, and the report when it is done."""
    rest, count = shlex.join(words), len(found.planned)
    return [
        f"thack slurm experiment --array {count} -- {rest} --cell {{task}} > grid.sbatch && sbatch grid.sbatch",
        f"thack experiment {rest}    # when all are done: nothing is left to do but the report",
    ]


def show_forecast(found: Forecast) -> None:
    cells = Table("cell", "arm", "seed", "figures", "", box=None)
    for p in found.planned:
        state = "complete" if p.run.is_complete else ""
        cells.add_row(str(p.number), p.name, str(p.cell.seed), " ".join(p.cell.figures), state)
    stages = Table("stage", "how many", "complete", "cells on each", "tokens to do", "hours of one thread", box=None)
    for kind in found.kinds:
        users, hours = f"{kind.users:.3g}", f"{kind.seconds / 3600:.2f}"
        stages.add_row(kind.name, str(kind.count), str(kind.complete), users, f"{kind.tokens:,.0f}", hours)
    out().print(cells)
    out().print(stages)
    out().print(
        f"{len(found.planned)} cells · about {found.tokens:,.0f} tokens and {found.hours:.2f} hours with "
        f"{found.workers} worker{'s' if found.workers > 1 else ''}, at {found.rate / 1e9:.1f} GFLOP/s a thread "
        f"(measured on {found.measured_on})",
        soft_wrap=True,
    )


def _run(settings: ExperimentSettings, target: Path, cell: int | None, *, as_json: bool, quiet: bool) -> None:
    from thack.experiments.grid import run_grid
    from thack.reporting import write_grid_report

    with shown_progress(quiet) as progress:
        result = run_grid(settings, target, progress, only=cell)
    report = write_grid_report(target, target / "report.html") if cell is None else None
    if as_json:
        print_json(document(result, report))
    else:
        show(result, only=cell)
        if report is not None:
            out().print(f"{result.seconds:.0f} s · report: {report}")
    complain(result)


def show(result: GridResult, *, only: int | None = None) -> None:
    table = Table("cell", "arm", "seed", "golden: minimum → end", "verdict", box=None)
    for outcome in result.outcomes:
        planned, found = outcome.planned, outcome.verdict
        if only is not None and planned.number != only:
            continue
        golden = found.golden if found else None
        curve = f"{golden.minimum:.3f} → {golden.end:.3f} ({percent(golden.rise)})" if golden else "–"
        told = Text(found.headline, style=STYLES.get(found.name, "yellow")) if found else Text(outcome.state)
        table.add_row(str(planned.number), planned.name, str(planned.cell.seed), curve, told)
    out().print(table)


def complain(result: GridResult) -> None:
    """Exit 1 at the end if a cell failed, naming each."""
    if not result.failed:
        return
    lines = [
        f"cell {o.planned.number} ({o.planned.name}, seed {o.planned.cell.seed}): {o.error.message}"
        for o in result.failed
        if o.error is not None
    ]
    raise ThackError(
        f"{len(lines)} of {len(result.outcomes)} cells failed",
        details=lines,
        hint="the others are kept: run the same command again to try these again",
    )


def document(result: GridResult, report: Path | None) -> dict[str, Any]:
    """The result as one JSON document."""
    runs = [
        {
            "cell": o.planned.number,
            "arm": o.planned.name,
            "seed": o.planned.cell.seed,
            "figures": list(o.planned.cell.figures),
            "run": str(o.planned.run.path),
            "state": o.state,
            "error": str(o.error) if o.error else None,
            **(o.verdict.dump() if o.verdict else {}),
        }
        for o in result.outcomes
    ]
    return {"report": str(report) if report else None, "seconds": result.seconds, "runs": runs}
