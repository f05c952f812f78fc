"""thack slurm: print an sbatch script for a command."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import print_file
from thack.cli.session import emit
from thack.config import SlurmSettings
from thack.config.slurm import COMMANDS

FLAGS = tuple(
    Flag(key=key) for key in ("array", "nodes", "tasks", "time", "cpus", "gpus", "memory", "partition", "account")
)

COMMAND = Annotated[str, typer.Argument(help=f"The command to run: {', '.join(COMMANDS)}.", show_default=False)]
ARGUMENTS = Annotated[
    list[str] | None,
    typer.Argument(help="Its own flags, after --; {task} becomes the array task's number.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="slurm",
        settings=SlurmSettings,
        run=run,
        flags=FLAGS,
        example="thack slurm distill --gpus 2 -- --cache c/ --student s/ --out runs/a",
        set_example="warn_s=300",
        parameters={"command": COMMAND, "arguments": ARGUMENTS},
    ).add_to(app)


def run(call: Call[SlurmSettings]) -> None:
    """Print an sbatch script that runs a command, survives preemption and requeues itself."""
    chosen = replace(call.settings, command=call.values["command"], arguments=tuple(call.values["arguments"] or ()))
    script = api.slurm_script(chosen)
    emit({"script": script}, lambda: print_file(script))
