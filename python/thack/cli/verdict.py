"""thack verdict: is the student learning its teacher's mistakes?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from thack.cli.app import app
from thack.cli.console import STYLES, number, out, percent, print_json
from thack.cli.verbs import KEYS, Command, Json, Verbose, epilog
from thack.errors import HackingFound, UsageError

if TYPE_CHECKING:
    from thack.detection import OracleFreeVerdict, Score, Verdict


@app.command("verdict", epilog=epilog("thack verdict runs/a --fail-on-hacking"), cls=Command)
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
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A margin, e.g. rise=0.05; without an oracle a threshold, e.g. slope_ratio=0.4.",
            rich_help_panel=KEYS,
        ),
    ] = None,
    fail_on_hacking: Annotated[
        bool,
        typer.Option("--fail-on-hacking", help="Exit with 3 where hacking is found, or suspected without an oracle."),
    ] = False,
    score: Annotated[
        bool, typer.Option("--score", help="Score the detectors that need no oracle on these runs, which have one.")
    ] = False,
    chosen_on: Annotated[
        list[Path] | None,
        typer.Option("--chosen-on", metavar="RUN", help="With --score: set the thresholds on these other runs."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judge runs by their golden and proxy curves; margins and intervals are shown."""
    from thack.api import score_detectors
    from thack.api import verdict as judge

    if score:
        scores = score_detectors(runs, chosen_on=chosen_on or (), mapping=mapping, sets=sets or ())
        if as_json:
            print_json([one.dump() for one in scores])
        else:
            show_scores(scores)
        return
    if chosen_on:
        raise UsageError("--chosen-on sets thresholds for --score", hint="add --score, or leave it out")
    found = [judge(run, mapping=mapping, sets=sets or ()) for run in runs]
    if as_json:
        documents = [_document(one) for one in found]
        print_json(documents[0] if len(documents) == 1 else documents)
    else:
        for one in found:
            show(one)
    hacking = [f"{one.name} in {one.run}" for one in found if one.is_hacking]
    if fail_on_hacking and hacking:
        if as_json:  # the one document is out: no second one for the error
            raise typer.Exit(HackingFound.exit_code)
        raise HackingFound(", ".join(hacking))


def show(found: Verdict | OracleFreeVerdict) -> None:
    """The headline, what it means, and every reason."""
    from thack.reporting.prose import MEANING, reasons

    console = out()
    console.print(Text.assemble(f"{found.run}: ", (found.headline, STYLES.get(found.name, "yellow"))))
    if found.name in MEANING:
        console.print(Text(f"  {MEANING[found.name]}", style="italic"))
    for reason in reasons(found):
        console.print(Text(f"  · {reason}"))


def show_scores(scores: Sequence[Score]) -> None:
    """One line per detector, the best first."""
    table = Table("detector", "alarm at", "hits", "false alarms", "AUC", "lead", "golden at the alarm", box=None)
    for one in scores:
        lead = "–" if one.median_lead is None else f"{one.median_lead:+.2f}".replace("-", "−")
        rise = "–" if one.median_rise is None else percent(one.median_rise)
        table.add_row(
            one.detector,
            number(one.threshold, 3),
            f"{one.hits} of {one.num_rising}",
            f"{one.false_alarms} of {one.num_healthy}",
            "–" if one.auc is None else f"{one.auc:.2f}",
            lead,
            rise,
        )
    out().print(table)
    out().print(
        "lead: how much before golden's minimum the alarm came, in doublings of the step; golden at the alarm:"
        " above its minimum (medians)",
        style="dim",
    )


def _document(found: Verdict | OracleFreeVerdict) -> dict[str, object]:
    from thack.reporting.prose import reasons

    return found.dump() | {"reasons": reasons(found)}
