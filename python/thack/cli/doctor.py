"""thack doctor: is this machine ready, and what will be used on it?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from thack.cli.app import app
from thack.cli.console import out, print_json
from thack.cli.verbs import Command, Json, Verbose, epilog, state
from thack.errors import ThackError

MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "wrong": ("✗", "bold red")}


@app.command("doctor", epilog=epilog("thack doctor --out /scratch/me/cache"), cls=Command)
def doctor(
    output: Annotated[Path, typer.Option("--out", help="Where a run would write: its file system is tried.")] = Path(),
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show versions, SIMD level, threads against limits, bf16, GPUs, and try the file system of --out."""
    from thack.runtime.doctor import examine

    findings = examine(output)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for finding in findings:
            mark, style = MARKS[finding.state]
            value = Text.assemble(
                finding.value, *([(f"\n{state.names.translate(finding.advice)}", "dim")] if finding.advice else [])
            )
            table.add_row(Text(mark, style=style), Text(finding.name, style="bold"), value)
        out().print(table)
    wrong = [finding.name for finding in findings if finding.state == "wrong"]
    if wrong:
        raise ThackError(f"not ready: {', '.join(wrong)}", hint="each line marked ✗ says what to do")
