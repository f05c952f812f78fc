"""thack experiment: the paper's figures as a grid of runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from thack import api
from thack.cli.command import Call, Flag, Given, SettingsCommand
from thack.cli.console import VERDICT_STYLES, count, percent, stdout
from thack.cli.seeds import count_or_list
from thack.cli.session import emit
from thack.config import ExperimentSettings
from thack.config.experiment import DECIDED
from thack.errors import ThackError, UsageError, plural

if TYPE_CHECKING:
    from thack.experiments.forecast import Forecast
    from thack.experiments.grid import GridResult

_RECIPE = (
    "demo, quick, laptop, gpu, paper or real; of the research pages diversity, causes, onset, on-policy or tokenizers; "
    "or a TOML file."
)
PARAMETERS = {
    "recipe": Annotated[str, typer.Argument(help=_RECIPE, show_default=False)],
    "out": Annotated[Path | None, typer.Option(help="Output directory; run again to resume. [dim]\\[runs/RECIPE][/]")],
    "cell": Annotated[int | None, typer.Option(metavar="N", help="Run this cell only: one task of a Slurm array.")],
    "dry_run": Annotated[
        bool | None, typer.Option("--dry-run", help="Show cells, shared stages, tokens and hours, and stop.")
    ],
    "array": Annotated[
        bool | None, typer.Option("--array", help="Write cells.json for Slurm, show what to submit, and stop.")
    ],
}
FLAGS = (
    Flag(key="seeds", help="how many seeds, as 3; or which, as 0,3 or 2-4", parse=count_or_list),
    Flag(key="figures"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="experiment",
        settings=ExperimentSettings,
        run=run,
        flags=FLAGS,
        example="thack experiment laptop --seeds 3 --dry-run",
        set_example='axes.budget="[1, 4]"',
        parameters=PARAMETERS,
        load=load,
        unsettable=tuple(f"distill.{key}" for key in DECIDED),
    ).add_to(app)


def load(given: Given) -> ExperimentSettings:
    """The recipe, changed by what was given."""
    return api.recipe(given.values["recipe"], files=given.files, sets=given.sets, overrides=given.overrides)


def run(call: Call[ExperimentSettings]) -> None:
    """Run a grid of controlled experiments, and report which of the paper's claims hold."""
    recipe, cell = call.values["recipe"], call.values["cell"]
    out = call.values["out"] or Path("runs") / Path(recipe).stem
    if call.values["dry_run"] or call.values["array"]:
        if cell is not None:
            raise UsageError("`cell` cannot be combined with `dry_run` or `array`", hint="give one of them")
        _look_ahead(call, recipe, out)
        return
    result = api.experiment(call.settings, out, cell=cell, progress=call.progress)
    report = api.report(out) if cell is None else None
    emit(document(result, report), lambda: _show(result, cell, report), out=out)
    _complain(result)


def _look_ahead(call: Call[ExperimentSettings], recipe: str, out: Path) -> None:
    found = api.forecast(call.settings, out)
    document = found.to_dict()
    submit: list[str] = []
    if call.values["array"]:
        document["manifest"] = str(api.write_cells(found, recipe, out))
        submit = array_commands(found, [recipe, "--out", str(out), *call.typed])
        document["submit"] = submit
    emit(document, lambda: _show_forecast(found, submit))


def array_commands(found: Forecast, words: Sequence[str]) -> list[str]:
    """What to type on a cluster: the array, and the report when it is done."""
    command, cells = shlex.join(words), len(found.planned)
    return [
        f"thack slurm experiment --array {cells} -- {command} --cell {{task}} > grid.sbatch && sbatch grid.sbatch",
        f"thack experiment {command}    # when all are done: writes the report",
    ]


def _show_forecast(found: Forecast, submit: Sequence[str]) -> None:
    cells = Table("cell", "arm", "seed", "figures", "", box=None)
    for p in found.planned:
        cells.add_row(
            str(p.number), p.name, str(p.cell.seed), " ".join(p.cell.figures), "complete" if p.run.is_complete else ""
        )
    stages = Table("stage", "how many", "complete", "cells on each", "tokens to do", "hours of one thread", box=None)
    for kind in found.kinds:
        users, hours = f"{kind.users:.3g}", f"{kind.seconds / 3600:.2f}"
        stages.add_row(kind.name, str(kind.count), str(kind.complete), users, count(kind.tokens), hours)
    stdout().print(cells)
    stdout().print(stages)
    stdout().print(
        f"{plural(len(found.planned), 'cell')} · about {count(found.tokens)} tokens and {found.hours:.2f} hours with "
        f"{plural(found.workers, 'worker')}, at {found.rate / 1e9:.1f} GFLOP/s a thread "
        f"(measured on {found.measured_on})",
        soft_wrap=True,
    )
    _show_seeds(found)
    for line in submit:
        stdout().print(line, soft_wrap=True)


def _show_seeds(found: Forecast) -> None:
    """How many paired seeds each claim needs, from the spread of those that have run."""
    if not found.seeds:
        stdout().print("how many seeds a claim needs is told once two of them have run", style="dim")
        return
    wanted = f"seeds for ± {100 * found.half_width:g} points"
    table = Table("claim", "seeds run", "spread", wanted, "at most, if the spread is larger", box=None)
    for one in found.seeds:
        spread = "–" if one.spread is None else f"{100 * one.spread:.2f}"
        table.add_row(f"{one.figure}: {one.text}", str(one.num_seeds), spread, *map(_seeds, (one.needed, one.at_most)))
    stdout().print(table)
    if any(one.spread is None for one in found.seeds):
        stdout().print("a spread takes two seeds: run them, then ask again")


def _seeds(number: int | None) -> str:
    return "–" if number is None else str(number)


def _show(result: GridResult, cell: int | None, report: Path | None) -> None:
    table = Table("cell", "arm", "seed", "golden: minimum → end", "verdict", box=None)
    for outcome in result.outcomes:
        planned, found = outcome.planned, outcome.verdict
        if cell is not None and planned.number != cell:
            continue
        golden = found.golden if found else None
        curve = f"{golden.minimum:.3f} → {golden.end:.3f} ({percent(golden.rise)})" if golden else "–"
        style = VERDICT_STYLES.get(found.name, "yellow") if found else ""
        state = Text(found.headline if found else outcome.state, style=style)
        table.add_row(str(planned.number), planned.name, str(planned.cell.seed), curve, state)
    stdout().print(table)
    if report is not None:
        stdout().print(f"{result.seconds:.0f} s · report: {report}")


def _complain(result: GridResult) -> None:
    """Exit with 1 at the end if a cell failed, naming each."""
    lines = [
        f"cell {o.planned.number} ({o.planned.name}, seed {o.planned.cell.seed}): {o.error.message}"
        for o in result.failed
        if o.error is not None
    ]
    if lines:
        raise ThackError(
            f"{len(lines)} of {len(result.outcomes)} cells failed",
            details=lines,
            hint="the others are kept: run the same command again to retry these",
        )


def document(result: GridResult, report: Path | None) -> dict[str, object]:
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
