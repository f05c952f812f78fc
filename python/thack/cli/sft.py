"""thack sft: train a model on prompts with responses."""

from __future__ import annotations

import typer

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import stdout
from thack.cli.session import emit
from thack.config import SftSettings

FLAGS = (
    Flag(key="data.path", name="data"),
    Flag(key="data.prompt_key"),
    Flag(key="data.response_key"),
    Flag(key="data.max_prompt_tokens"),
    Flag(key="data.max_response_tokens"),
    Flag(key="data.limit"),
    Flag(key="data.on_bad_line"),
    Flag(key="model"),
    Flag(key="out"),
    Flag(key="epochs"),
    Flag(key="batch_size"),
    Flag(key="optimizer.learning_rate"),
    Flag(key="seed"),
    Flag(key="device"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="sft",
        settings=SftSettings,
        run=run,
        flags=FLAGS,
        example="thack sft --data pairs.jsonl --model ./base --out runs/teacher",
        set_example="lora.rank=16, or router_loss=true for a mixture of experts",
        many=True,
    ).add_to(app)


def run(call: Call[SftSettings]) -> None:
    """Train a model on prompts with responses: an oracle, a teacher, or a student to start from."""
    directory = api.sft(call.settings, progress=call.progress)
    emit({"out": str(directory)}, lambda: stdout().print(f"model: {directory}"), out=directory)
