"""thack verdict: is the student learning its teacher's mistakes?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from thack.cli.app import app
from thack.cli.console import STYLES, out, print_json
from thack.cli.verbs import KEYS, Json, Verbose, epilog
from thack.errors import HackingFound

if TYPE_CHECKING:
    from thack.hacking import OracleFreeVerdict, Verdict


@app.command("verdict", epilog=epilog("thack verdict runs/a --fail-on-hacking"))
def verdict(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories, or logs of other trainers (JSONL, trainer_state.json).", show_default=False
        ),
    ],
    mapping: Annotated[
        str | None,
        typer.Option("--map", metavar="WORD=COLUMN,…", help="Which columns of a foreign log play which part."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A margin, e.g. rise=0.05.", rich_help_panel=KEYS),
    ] = None,
    fail_on_hacking: Annotated[
        bool, typer.Option("--fail-on-hacking", help="Exit with 3 where the verdict is hacking.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judge runs by their golden and proxy curves; margins and intervals are shown."""
    from thack.api import verdict as judge

    found = [judge(run, mapping=mapping, sets=sets or ()) for run in runs]
    if as_json:
        documents = [_document(one) for one in found]
        print_json(documents[0] if len(documents) == 1 else documents)
    else:
        for one in found:
            show(one)
    hacking = [one.run for one in found if one.name == "hacking"]
    if fail_on_hacking and hacking:
        raise HackingFound(f"hacking found in {', '.join(hacking)}")


def show(found: Verdict | OracleFreeVerdict) -> None:
    """The headline, what it means, and every reason."""
    from thack.hacking import MEANING

    console = out()
    console.print(Text.assemble(f"{found.run}: ", (found.headline, STYLES.get(found.name, "yellow"))))
    if found.name in MEANING:
        console.print(Text(f"  {MEANING[found.name]}", style="italic"))
    for reason in found.reasons:
        console.print(Text(f"  · {reason}"))


def _document(found: Any) -> dict[str, Any]:
    return dict(found.to_dict()) if hasattr(found, "to_dict") else dataclasses.asdict(found)
