"""thack corpus: an embedded task as JSONL files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thack import api
from thack.cli.command import add_command
from thack.cli.console import count, stdout
from thack.cli.session import emit

OUT_HELP = "Directory of the three files. [dim]\\[data][/]"
HELD_OUT_HELP = "Prompts set aside for held_out.jsonl. [dim]\\[256][/]"
TASK_HELP = (
    "docstring (signature → docstring), signature (docstring → signature), continuation (of code), "
    "postfix (statement → its postfix form), or debian (questions about packages, without answers). "
    "[dim]\\[docstring][/]"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "corpus", run, example="thack corpus --task docstring --out data/")


def run(
    out: Annotated[Path, typer.Option(help=OUT_HELP, show_default=False)] = Path("data"),
    task: Annotated[str, typer.Option(metavar="WORD", help=TASK_HELP, show_default=False)] = "docstring",
    held_out: Annotated[int, typer.Option(metavar="N", min=1, help=HELD_OUT_HELP, show_default=False)] = 256,
) -> None:
    """Write text that machines carry as pairs, prompts and held-out prompts: Python's own standard library, for one."""
    counts = api.corpus(out, task=task, held_out=held_out)

    def show() -> None:
        for path, lines in counts.items():
            stdout().print(f"{path}: {count(lines)} lines")

    emit({str(path): lines for path, lines in counts.items()}, show, out=out)
