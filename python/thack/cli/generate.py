"""thack generate: write responses to prompts with a model."""

from __future__ import annotations

import typer

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import count, stdout
from thack.cli.session import emit
from thack.config import GenerateSettings

FLAGS = (
    Flag(key="model"),
    Flag(key="data.path", name="data"),
    Flag(key="data.prompt_key"),
    Flag(key="data.max_prompt_tokens"),
    Flag(key="data.limit"),
    Flag(key="data.on_bad_line"),
    Flag(key="out"),
    Flag(key="samples"),
    Flag(key="data.max_response_tokens"),
    Flag(key="sampling.temperature"),
    Flag(key="sampling.greedy"),
    Flag(key="batch_size"),
    Flag(key="seed"),
    Flag(key="device"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="generate",
        settings=GenerateSettings,
        run=run,
        flags=FLAGS,
        example="thack generate --model runs/oracle --data prompts.jsonl --out responses/",
        set_example="sampling.top_p=0.95",
    ).add_to(app)


def run(call: Call[GenerateSettings]) -> None:
    """Write responses to prompts with a model, replayable to the token."""
    found = api.generate(call.settings, progress=call.progress)
    emit(
        found.dump(),
        lambda: stdout().print(
            f"{count(found.responses)} responses · {count(found.tokens)} tokens"
            f" · {found.finished:.1%} end with an end-of-response token · {found.out}"
        ),
        out=found.out,
    )
