"""thack report: one page about one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thack import api
from thack.cli.command import add_command
from thack.cli.console import stdout
from thack.cli.session import emit

RUNS_HELP = "Run directories, side by side; or one written by thack experiment."


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "report", run, example="thack report runs/a runs/b --out report.html")


def run(
    runs: Annotated[list[Path], typer.Argument(help=RUNS_HELP, show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The HTML file; by default report.html in the first run.")] = None,
) -> None:
    """Write one self-contained HTML page about runs: verdicts, curves, settings, costs."""
    path = api.report(runs, out)
    emit({"out": str(path)}, lambda: stdout().print(f"report: {path}"), out=path)
