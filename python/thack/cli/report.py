"""thack report: one page about one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thack.cli.app import app
from thack.cli.console import out, print_json
from thack.cli.verbs import Command, Json, Verbose, epilog


@app.command("report", epilog=epilog("thack report runs/a runs/b --out report.html"), cls=Command)
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, side by side; or one that thack experiment made.", show_default=False),
    ],
    output: Annotated[
        Path | None, typer.Option("--out", help="The HTML file; by default report.html in the first run.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write one self-contained HTML page about runs: verdicts, curves, settings, costs."""
    from thack.api import report as write

    path = write(runs, output)
    print_json({"out": str(path)}) if as_json else out().print(f"report: {path}")
