"""thack corpus: an embedded task as JSONL files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thack import api
from thack.cli.command import add_command
from thack.cli.console import count, stdout
from thack.cli.session import emit

TASK_HELP = (
    "docstring (signature → docstring), signature (docstring → signature), continuation (of code), "
    "postfix (statement → its postfix form), or debian (questions about packages, without answers)."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "corpus", run, example="thack corpus --task docstring --out data/")


def run(
    out: Annotated[Path, typer.Option(help="Directory of the three files.")] = Path("data"),
    task: Annotated[str, typer.Option(metavar="WORD", help=TASK_HELP)] = "docstring",
    held_out: Annotated[int, typer.Option(metavar="N", min=1, help="Prompts set aside for held_out.jsonl.")] = 256,
) -> None:
    """Write text that machines carry as pairs, prompts and held-out prompts: Python's own standard library, for one."""
    counts = api.corpus(out, task=task, held_out=held_out)

    def show() -> None:
        for path, lines in counts.items():
            stdout().print(f"{path}: {count(lines)} lines")

    emit({str(path): lines for path, lines in counts.items()}, show, out=out)
