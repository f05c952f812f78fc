"""thack push: a model with its card to the Hugging Face hub."""

from __future__ import annotations

import typer

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import print_item, stdout
from thack.cli.session import emit
from thack.config import PushSettings
from thack.errors import plural
from thack.schema.publication import Pushed, PushResult

FLAGS = (
    Flag(key="model"),
    Flag(key="to"),
    Flag(key="merge"),
    Flag(key="cache"),
    Flag(key="cache_to"),
    Flag(key="public"),
    Flag(key="revision"),
    Flag(key="endpoint"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="push",
        settings=PushSettings,
        run=run,
        flags=FLAGS,
        example="thack push --model runs/a --to ORG/student --cache cache",
        set_example="public=true",
    ).add_to(app)


def run(call: Call[PushSettings]) -> None:
    """Upload a model with its card to the Hugging Face hub, and on request its cache with a card of its own.

    The card says what is known of the model: the verdict with its intervals,
    data, cache and cost. One commit holds all files. A new repository is
    private unless --public is given.
    """
    found = api.push(call.settings, progress=call.progress)
    emit(found.dump(), lambda: _show(found))


def _show(found: PushResult) -> None:
    for what, pushed in (("model", found.model), ("cache", found.cache)):
        if pushed is not None:
            _show_one(what, pushed)


def _show_one(what: str, pushed: Pushed) -> None:
    stdout().print(f"{what}: {plural(pushed.files, 'file')} in {pushed.repository} · {pushed.url}")
    if pushed.removed:
        print_item(f"removed there, of an earlier push: {', '.join(pushed.removed)}")
    if pushed.left_out:
        print_item(f"not pushed: {', '.join(pushed.left_out)}")
