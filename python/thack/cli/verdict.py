"""thack verdict: is the student learning its teacher's mistakes?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import VERDICT_STYLES, number, percent, print_item, stdout
from thack.cli.session import emit, session
from thack.config import VerdictSettings
from thack.errors import HackingFound, UsageError
from thack.schema.verdict import OracleFreeVerdict, Verdict

if TYPE_CHECKING:
    from thack.detection import Score

PARAMETERS = {
    "runs": Annotated[
        list[Path],
        typer.Argument(
            help="Run directories, or logs of other trainers (JSONL, CSV, trainer_state.json).",
            show_default=False,
        ),
    ],
    "mapping": Annotated[
        str | None,
        typer.Option("--map", metavar="WORD=COLUMN,…", help="Columns of another trainer's log, by what they measure."),
    ],
    "fail_on_hacking": Annotated[
        bool | None,
        typer.Option("--fail-on-hacking", help="Exit with 3 where hacking is found, or suspected without an oracle."),
    ],
    "online": Annotated[
        Path | None,
        typer.Option(
            "--online",
            metavar="RUN",
            help="The same student on newly sampled responses and exact targets: golden at equal proxy tells the "
            "cause of a rise.",
        ),
    ],
    "score": Annotated[
        bool | None,
        typer.Option("--score", help="Score the detectors that need no oracle on these runs, which have one."),
    ],
    "chosen_on": Annotated[
        list[Path] | None,
        typer.Option("--chosen-on", metavar="RUN", help="With --score: choose the thresholds on these other runs."),
    ],
}
FLAGS: tuple[Flag, ...] = ()


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="verdict",
        settings=VerdictSettings,
        run=run,
        flags=FLAGS,
        example="thack verdict runs/a --fail-on-hacking",
        set_example="margins.rise=0.05, or thresholds.slope_ratio=0.4 without an oracle",
        parameters=PARAMETERS,
    ).add_to(app)


def run(call: Call[VerdictSettings]) -> None:
    """Judge runs by their golden and proxy curves; margins and intervals are shown."""
    runs, mapping = call.values["runs"], parse_mapping(call.values["mapping"] or "")
    margins, thresholds = call.settings.margins, call.settings.thresholds
    if call.values["score"]:
        _check_score(call)
        chosen_on = call.values["chosen_on"] or ()
        scores = api.score_detectors(runs, chosen_on=chosen_on, mapping=mapping, margins=margins, thresholds=thresholds)
        emit([score.dump() for score in scores], lambda: _show_scores(scores))
        return
    if call.values["chosen_on"]:
        raise UsageError("`chosen_on` chooses thresholds for `score`", hint="add `score`, or leave it out")
    online = call.values["online"]
    found = [api.verdict(one, mapping=mapping, margins=margins, thresholds=thresholds, online=online) for one in runs]
    documents = [one.dump() | {"reasons": api.explain(one)} for one in found]
    emit(documents[0] if len(documents) == 1 else documents, lambda: _show(found))
    hacking = [f"{one.name} in {one.run}" for one in found if one.is_hacking]
    if call.values["fail_on_hacking"] and hacking:
        if session.json:  # one document was printed: no second one for the error
            raise typer.Exit(HackingFound.exit_code)
        raise HackingFound(", ".join(hacking))


def _check_score(call: Call[VerdictSettings]) -> None:
    """Refuse what belongs to the verdict of each run."""
    for name in ("online", "fail_on_hacking"):
        if call.values[name]:
            raise UsageError(
                f"`{name}` belongs to the verdicts of runs, and `score` scores detectors", hint="leave out one of them"
            )


def parse_mapping(text: str) -> dict[str, str]:
    """`golden=eval/golden,proxy=eval/kl,step=global_step` as a mapping.

    Raises:
        UsageError: a part is not of the form word=column.
    """
    mapping: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        word, equals, column = part.partition("=")
        if not equals or not column.strip():
            raise UsageError(
                f"`mapping` {part!r} is not of the form word=column",
                hint="for example: `mapping = golden=eval/golden,proxy=eval/kl,step=global_step`",
            )
        mapping[word.strip()] = column.strip()
    return mapping


def _show(verdicts: Sequence[Verdict | OracleFreeVerdict]) -> None:
    """The headline, what it means, and every reason."""
    for found in verdicts:
        style = VERDICT_STYLES.get(found.name, "yellow")
        stdout().print(Text.assemble(f"{found.run}: ", (found.headline, style)))
        for sentence in api.explain(found):
            print_item(session.names.translate(sentence))


def _show_scores(scores: Sequence[Score]) -> None:
    """One row per detector, the best first."""
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
    stdout().print(table)
    stdout().print(
        "lead: how much before golden's minimum the alarm came, in doublings of the step; golden at the alarm:"
        " above its minimum (medians)",
        style="dim",
    )
