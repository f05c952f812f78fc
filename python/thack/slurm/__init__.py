"""sbatch scripts: templates shipped as package data, filled in by `thack slurm`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from thack.errors import UsageError

VERBS = ("sft", "generate", "cache-logits", "distill", "evaluate", "demo", "experiment")
TOGETHER = ("sft", "distill")  # verbs whose processes work on one thing
TASK = "{task}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked of Slurm."""

    verb: str
    arguments: tuple[str, ...] = ()
    array: int = 0  # tasks of an array; 0: one job
    nodes: int = 1
    tasks: int = 1  # per node: the ranks of sft and distill, each with its GPUs
    time: str = "04:00:00"
    cpus: int = 8
    gpus: int = 1  # per task
    memory: str = "32G"
    partition: str = ""
    account: str = ""
    warn_s: int = 120  # signal so long before the time limit
    python: str = sys.executable


def render(job: Job) -> str:
    """The sbatch script of `job`, ready to submit."""
    template = _template(job)
    text = (files("thack") / "slurm" / f"{template}.sbatch").read_text(encoding="utf-8")
    values = {
        "name": f"thack-{job.verb}",
        "options": "\n".join(_options(job)),
        "command": _command(job),
        "out": _quote(_output(job)),
        "time": job.time,
        "warn_s": str(job.warn_s),
        "array": str(job.array - 1),
        "nodes": str(job.nodes),
        "tasks": str(job.tasks),
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _template(job: Job) -> str:
    if job.verb not in VERBS:
        raise UsageError(f"no job for thack {job.verb}", hint=f"one of: {', '.join(VERBS)}")
    if job.nodes * job.tasks > 1:
        _check_ranks(job)
    if not job.array:
        return "single" if job.nodes == 1 else "multi-node"
    if job.verb == "cache-logits":
        return "cache-array"
    if not any(TASK in argument for argument in job.arguments):
        raise UsageError(
            f"--array {job.array} would run the same command {job.array} times",
            hint=f"put {TASK} where the tasks differ, for example: --seed {TASK} --out runs/a-{TASK}",
        )
    return "array"


def _check_ranks(job: Job) -> None:
    if job.verb not in TOGETHER:
        hint = "give cache-logits --array instead" if job.verb == "cache-logits" else "leave --nodes and --tasks out"
        raise UsageError(f"thack {job.verb} runs as one process", hint=hint)
    if job.array:
        raise UsageError(
            "the tasks of an array are runs of their own, of one process each",
            hint="leave --array out, or --nodes and --tasks",
        )


def _options(job: Job) -> list[str]:
    lines = [f"#SBATCH --cpus-per-task={job.cpus}", f"#SBATCH --mem={job.memory}"]
    if job.gpus:  # per node where ranks talk to each other: bound to a task, GPUs cannot reach their neighbours
        shared = job.nodes * job.tasks > 1
        lines.append(
            f"#SBATCH --gpus-per-node={job.gpus * job.tasks}" if shared else f"#SBATCH --gpus-per-task={job.gpus}"
        )
    for name, value in (("partition", job.partition), ("account", job.account)):
        if value:
            lines.append(f"#SBATCH --{name}={value}")
    return lines


def _command(job: Job) -> str:
    words = [job.python, "-m", "thack", job.verb, *job.arguments]
    return " ".join(map(_quote, words))


def _quote(word: str) -> str:
    """Quoted for bash, with the task's number left for Slurm to fill in."""
    quoted = shlex.quote(word)
    return quoted if TASK not in word else quoted.replace(TASK, "'\"$SLURM_ARRAY_TASK_ID\"'")


def _output(job: Job) -> str:
    """The --out of the command: where STATUS.json will be."""
    arguments: Sequence[str] = job.arguments
    for index, argument in enumerate(arguments):
        if argument == "--out" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--out="):
            return argument.removeprefix("--out=")
    raise UsageError(
        "a job needs --out among the command's arguments",
        hint="after --, for example: thack slurm distill -- --cache cache/ --student ./student --out runs/a",
    )


def templates() -> list[str]:
    """Names of the shipped templates."""
    folder = files("thack") / "slurm"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".sbatch"))
