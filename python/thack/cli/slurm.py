"""thack slurm: print an sbatch script for a command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from thack.cli.app import app
from thack.cli.console import print_json
from thack.cli.verbs import Command, Json, Verbose, epilog
from thack.slurm import VERBS, Job, render

EXAMPLE = "thack slurm cache-logits --array 16 -- --teacher ./teacher --data p.jsonl --out cache/ > a.sbatch"


@app.command("slurm", epilog=epilog(EXAMPLE), cls=Command)
def slurm(
    verb: Annotated[str, typer.Argument(help=f"The command to run: {', '.join(VERBS)}.", show_default=False)],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Its own flags, after --; {task} becomes the array task's number.", show_default=False),
    ] = None,
    array: Annotated[int, typer.Option(help="Tasks of a job array; cache-logits shares its shards among them.")] = 0,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of one sft or distill run.")] = 1,
    tasks: Annotated[int, typer.Option(min=1, help="Its ranks per node, one per GPU.")] = 1,
    time: Annotated[str, typer.Option(help="Time limit; the job requeues itself until done.")] = "04:00:00",
    cpus: Annotated[int, typer.Option(min=1, help="Cores per task.")] = 8,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs per task.")] = 1,
    memory: Annotated[str, typer.Option(help="Memory per node.")] = "32G",
    partition: Annotated[str, typer.Option(help="Slurm partition.")] = "",
    account: Annotated[str, typer.Option(help="Slurm account.")] = "",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Print an sbatch script that runs a command, survives preemption and requeues itself."""
    job = Job(
        verb=verb,
        arguments=tuple(arguments or ()),
        array=array,
        nodes=nodes,
        tasks=tasks,
        time=time,
        cpus=cpus,
        gpus=gpus,
        memory=memory,
        partition=partition,
        account=account,
    )
    script = render(job)
    if as_json:
        print_json({"script": script})
    else:
        sys.stdout.write(script)
