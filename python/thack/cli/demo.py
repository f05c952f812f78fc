"""thack demo: the controlled experiment at laptop size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from thack.cli.app import app
from thack.cli.console import STYLES, err, number, out, percent, print_json
from thack.cli.verbs import KEYS, Command, Json, Quiet, Verbose, epilog, shown_progress
from thack.errors import UsageError

if TYPE_CHECKING:
    from thack.experiments.demo import DemoResult


@app.command("demo", epilog=epilog("thack demo --seeds 0-4 --out runs/demo"), cls=Command)
def demo(
    output: Annotated[Path, typer.Option("--out", help="Where it all goes; run again to go on.")] = Path("runs/demo"),
    seeds: Annotated[str, typer.Option(help="Seeds, as 0 or 0,3 or 0-4; the oracle is shared.")] = "0",
    quick: Annotated[bool, typer.Option("--quick", help="Small enough for a smoke test; proves nothing.")] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. distill.epochs=30.", rich_help_panel=KEYS),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train oracle, teacher and students on Python's own docstrings, and see who hacks the teacher."""
    from thack.runtime.threads import threads

    numbers = parse_seeds(seeds)
    if not quiet:
        err().print(_banner(threads()), style="dim", markup=False)
    with shown_progress(quiet) as progress:
        from thack.experiments.demo import run_demo

        result = run_demo(output, seeds=numbers, quick=quick, sets=sets or (), progress=progress)
    if as_json:
        print_json(document(result))
        return
    show(result)
    out().print(f"{result.seconds:.0f} s · report: {result.report} · next: thack distill --help")


def show(result: DemoResult) -> None:
    """One line per student: golden down and up, proxy, verdict."""
    table = Table("student", "seed", "golden: start, minimum, end", "proxy at minimum → end", "verdict", box=None)
    for arm in result.runs:
        found = arm.verdict
        golden, after = found.golden, found.proxy_change
        curve = "–"
        if golden is not None:
            curve = f"{golden.start:.3f}, {golden.minimum:.3f} @ {golden.minimum_step:.10g}, {golden.end:.3f}"
            curve += f" ({percent(golden.rise)})"
        proxy = "–" if found.proxy is None else f"{number(found.proxy_at_onset, 3)} → {found.proxy.end:.3f}"
        change = "" if after is None else f" ({percent(after)})"
        verdict = Text(found.headline, style=STYLES.get(found.name, "yellow"))
        table.add_row(arm.source, str(arm.seed), curve, proxy + change, verdict)
    out().print(table)


def document(result: DemoResult) -> dict[str, Any]:
    """The result as one JSON document."""
    runs = [
        {
            "arm": arm.source,
            "seed": arm.seed,
            "run": str(arm.path),
            "seconds": arm.seconds,
            **arm.verdict.dump(),
        }
        for arm in result.runs
    ]
    return {"report": str(result.report), "seconds": result.seconds, "runs": runs}


def parse_seeds(text: str) -> list[int]:
    """`0`, `0,3` or `0-4` as numbers."""
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError as error:
        raise UsageError(f"--seeds {text}: not seeds", hint="write 0, or 0,3, or 0-4") from error
    if not numbers:
        raise UsageError(f"--seeds {text}: no seed", hint="write 0, or 0,3, or 0-4")
    return list(dict.fromkeys(numbers))


def _banner(num_threads: int) -> str:
    from thack.runtime.environment import environment

    facts = environment()
    device = facts["gpus"][0] if facts["gpus"] else "cpu"
    return (
        f"thack {facts['thack']} · python {facts['python']} · torch {facts['packages'].get('torch')}"
        f" ({device}, {num_threads} threads, {facts['simd']}) · everything below is trained here,"
        " from Python's own docstrings"
    )
