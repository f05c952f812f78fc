"""thack corpus: the embedded corpus as JSONL files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thack.cli.app import app
from thack.cli.console import out, print_json
from thack.cli.verbs import Command, Json, Verbose, epilog


@app.command("corpus", epilog=epilog("thack corpus --task docstring --out data/"), cls=Command)
def corpus(
    output: Annotated[Path, typer.Option("--out", help="Directory for the three files.")] = Path("data"),
    task: Annotated[str, typer.Option(help="docstring (signature → docstring), signature, or continuation.")] = (
        "docstring"
    ),
    held_out: Annotated[int, typer.Option(min=1, help="Prompts set aside for held_out.jsonl.")] = 256,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write real text that this machine carries, Python's standard library, as pairs, prompts and held-out prompts."""
    from thack.data.export import export_corpus

    counts = export_corpus(output, task, held_out)
    if as_json:
        print_json({str(output / name): count for name, count in counts.items()})
        return
    for name, count in sorted(counts.items()):
        out().print(f"{output / name}: {count:,} lines")
