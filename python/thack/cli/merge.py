"""thack merge: an adapter and its base model as one model."""

from __future__ import annotations

import typer

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import stdout
from thack.cli.session import emit
from thack.config import MergeSettings

FLAGS = (
    Flag(key="model"),
    Flag(key="out"),
    Flag(key="full_hash"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="merge",
        settings=MergeSettings,
        run=run,
        flags=FLAGS,
        example="thack merge --model runs/lora --out merged/",
        set_example="full_hash=true",
    ).add_to(app)


def run(call: Call[MergeSettings]) -> None:
    """Write an adapter and its base model as one model, which transformers and vLLM open."""
    fingerprint, out = api.merge(call.settings, progress=call.progress), call.settings.out
    emit({"out": str(out), "fingerprint": fingerprint}, lambda: stdout().print(f"model: {out}"), out=out)
