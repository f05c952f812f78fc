"""thack data: look at data as token ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import count, stdout
from thack.cli.parsing import KnownGroup
from thack.cli.session import emit, session
from thack.config import ShowSettings
from thack.schema.data import ShownData, ShownSequence

FLAGS = (
    Flag(key="model"),
    Flag(key="count"),
    Flag(key="data.prompt_key"),
    Flag(key="data.response_key"),
    Flag(key="data.max_prompt_tokens"),
    Flag(key="data.train_on"),
    Flag(key="data.limit"),
    Flag(key="data.on_bad_line"),
    Flag(key="data.max_response_tokens"),
)
DATA = Annotated[
    Path, typer.Argument(metavar="DATA", help="File of prompts, pairs or conversations.", show_default=False)
]
# (trained, control token) → style
_STYLES = {(False, False): "dim", (False, True): "blue", (True, False): "green", (True, True): "bold magenta"}
_NOTED = ("dropped_prompts", "cut_prompts", "cut_responses", "without_response", "pieces")


def register(app: typer.Typer) -> None:
    """Add the group and its command."""
    group = typer.Typer(
        name="data", cls=KnownGroup, help="Look at data as token ids.", no_args_is_help=True, rich_markup_mode="rich"
    )
    app.add_typer(group, name="data")
    SettingsCommand(
        name="show",
        settings=ShowSettings,
        run=run,
        flags=FLAGS,
        example="thack data show chats.jsonl --model ./student",
        set_example="data.chat_template=tool_use",
        parameters={"data": DATA},
    ).add_to(group)


def run(call: Call[ShowSettings]) -> None:
    """Show prompt, response, and what ends it, in colour; count what is dropped, cut or refused."""
    data = replace(call.settings.data, path=str(call.values["data"]))
    found = api.show_data(replace(call.settings, data=data), progress=call.progress)
    emit(found.dump(), lambda: _show(found))


def _show(found: ShownData) -> None:
    console = stdout()
    for sequence in found.sequences:
        console.print(Text.assemble((f"── {sequence.prompt_id} ", "bold"), _summary(sequence)))
        console.print(_coloured(sequence))
    console.print(_legend())
    console.print(_totals(found))
    for line in found.skipped[:5]:
        console.print(Text(f"skipped {line}", style="yellow"))
    for line in found.warnings:
        console.print(Text(f"warning: {session.names.translate(line)}", style="yellow"))


def _summary(sequence: ShownSequence) -> str:
    trained = sum(sequence.trained)
    ended = "" if not trained else " · finished" if sequence.finished else " · no end"
    return f"{count(len(sequence.ids) - trained)} prompt tokens, {count(trained)} trained{ended}"


def _coloured(sequence: ShownSequence) -> Text:
    """Prompt and response; without colours the response stands between brackets."""
    plain = not stdout().is_terminal
    found, open_bracket = Text(), False
    for piece in sequence.pieces:
        if plain and piece.trained != open_bracket:
            found.append("⟦" if piece.trained else "⟧")
        open_bracket = piece.trained
        found.append(piece.text, style=_STYLES[piece.trained, piece.control])
    return found.append("⟧") if plain and open_bracket else found


def _legend() -> Text:
    names = ("prompt", "control token", "trained", "trained control token")
    return Text(" · ").join(Text(name, style=style) for name, style in zip(names, _STYLES.values(), strict=True))


def _totals(found: ShownData) -> str:
    parts = [
        f"{count(found.counts['kept'])} sequences of {count(found.counts['records'])} records",
        f"{count(found.prompt_tokens)} prompt tokens, {count(found.trained_tokens)} trained",
        *(f"{count(n)} {name.replace('_', ' ')}" for name, n in found.counts.items() if n and name in _NOTED),
        "ends: " + ", ".join(found.ends),
    ]
    return " · ".join(parts)
