"""thack experiment: the paper's figures as a grid of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thack.cli.app import app
from thack.cli.console import out, print_json
from thack.cli.demo import parse_seeds
from thack.cli.verbs import KEYS, Json, Quiet, Verbose, epilog, shown_progress
from thack.errors import ThackError
from thack.runtime.status import recorded

if TYPE_CHECKING:
    from thack.experiment.grid import GridResult


@app.command("experiment", epilog=epilog("thack experiment laptop --seeds 3 --dry-run"))
def experiment(
    recipe: Annotated[str, typer.Argument(help="laptop, gpu, paper, demo, or a TOML file of your own.")],
    output: Annotated[
        Path | None, typer.Option("--out", help="Where it all goes; run again to go on. [dim]\\[runs/RECIPE][/]")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="How many seeds, as 3; or which, as 0,3 or 2-4.")] = None,
    figures: Annotated[
        str | None, typer.Option(help="F4 F5 F6 F7 F8 fraction loss sizes target axes, with commas between.")
    ] = None,
    cell: Annotated[int | None, typer.Option(help="Make this one cell only: a task of a Slurm array.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help='A setting, e.g. axes.budget="[1, 4]".', rich_help_panel=KEYS),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a grid of controlled experiments, and tell which of the paper's claims hold."""
    from thack.experiment.grid import recipe as load_recipe
    from thack.experiment.grid import run_grid

    overrides = {
        "seeds": None if seeds is None else count_or_list(seeds),
        "figures": None if figures is None else figures.replace(",", " ").split(),
    }
    settings = load_recipe(recipe, sets or (), overrides=overrides)
    target = output or Path("runs") / Path(recipe).stem
    with shown_progress(quiet) as progress, recorded(target):
        result = run_grid(settings, target, progress, only=cell)
    print_json(document(result)) if as_json else show(result)
    if result.failed:
        names = [f"cell {o.planned.number}: {o.planned.name}, seed {o.planned.cell.seed}" for o in result.failed]
        raise ThackError(
            f"{len(result.failed)} of {len(result.outcomes)} cells failed",
            details=[
                f"{name}: {o.error.message if o.error else ''}" for name, o in zip(names, result.failed, strict=True)
            ],
            hint="the others are kept: run the same command again to try these again",
        )


def count_or_list(text: str) -> list[int]:
    """`3` is three seeds, `0,3` and `2-4` say which."""
    return list(range(int(text))) if text.isdigit() and int(text) > 0 else parse_seeds(text)


def show(result: GridResult) -> None:
    for outcome in result.outcomes:
        told = outcome.verdict.headline if outcome.verdict else outcome.state
        out().print(f"{outcome.planned.number:>3}  {outcome.planned.name}, seed {outcome.planned.cell.seed}: {told}")


def document(result: GridResult) -> dict[str, object]:
    runs = [
        {
            "cell": o.planned.number,
            "arm": o.planned.name,
            "seed": o.planned.cell.seed,
            "run": str(o.planned.run.path),
            "state": o.state,
            "error": str(o.error) if o.error else None,
            "verdict": o.verdict.to_dict() if o.verdict else None,
        }
        for o in result.outcomes
    ]
    return {"seconds": result.seconds, "runs": runs}
