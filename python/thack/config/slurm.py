"""The settings of `thack slurm`: what is asked of Slurm for one command."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from thack.schema.fields import AtLeast, Help

COMMANDS = ("sft", "generate", "cache-logits", "distill", "evaluate", "demo", "experiment")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSettings:
    """A job for Slurm: a command of thack with its own flags, and the resources it gets."""

    command: Annotated[str, Help("the command to run: " + ", ".join(COMMANDS))] = "distill"
    arguments: Annotated[tuple[str, ...], Help("its own flags; {task} becomes the number of the array task")] = ()
    array: Annotated[int, AtLeast(0), Help("tasks of a job array (0 = one job); cache-logits shares its shards")] = 0
    nodes: Annotated[int, AtLeast(1), Help("nodes of one sft or distill run")] = 1
    tasks: Annotated[int, AtLeast(1), Help("its ranks per node, one per GPU")] = 1
    time: Annotated[str, Help("time limit; the job requeues itself until it is done")] = "04:00:00"
    cpus: Annotated[int, AtLeast(1), Help("cores per task")] = 8
    gpus: Annotated[int, AtLeast(0), Help("GPUs per task")] = 1
    memory: Annotated[str, Help("memory per node")] = "32G"
    partition: Annotated[str, Help("Slurm partition")] = ""
    account: Annotated[str, Help("Slurm account")] = ""
    warn_s: Annotated[
        int, AtLeast(0), Help("seconds before the time limit at which the job gets the signal to save")
    ] = 120
    max_requeues: Annotated[int, AtLeast(0), Help("restarts after which a stopped job is not requeued")] = 50
    python: Annotated[str, Help("the Python interpreter that runs the command")] = sys.executable
