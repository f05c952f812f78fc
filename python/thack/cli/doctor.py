"""thack doctor: is this machine ready, and what will be used on it?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from thack import api
from thack.cli.command import add_command
from thack.cli.console import stdout
from thack.cli.session import emit, session
from thack.errors import ThackError

MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "wrong": ("✗", "bold red")}


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "doctor", run, example="thack doctor --out /scratch/me/cache")


def run(
    out: Annotated[Path, typer.Option(help="Where a run would write: its file system is tested.")] = Path(),
) -> None:
    """Show versions, SIMD level, threads against limits, bf16, GPUs, and test the file system of --out."""
    findings = api.doctor(out)

    def show() -> None:
        table = Table(box=None, show_header=False, pad_edge=False)
        for finding in findings:
            mark, style = MARKS[finding.state]
            advice = f"\n{session.names.translate(finding.advice)}" if finding.advice else ""
            value = Text.assemble(finding.value, (advice, "dim"))
            table.add_row(Text(mark, style=style), Text(finding.name, style="bold"), value)
        stdout().print(table)

    emit([dataclasses.asdict(finding) for finding in findings], show)
    wrong = [finding.name for finding in findings if finding.state == "wrong"]
    if wrong:
        raise ThackError(f"not ready: {', '.join(wrong)}", hint="each line marked ✗ says what to do")
