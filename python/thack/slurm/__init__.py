"""sbatch scripts: templates shipped as package data, filled in by `thack slurm`."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from string import Template

from thack.config.slurm import COMMANDS, SlurmSettings
from thack.errors import UsageError

COLLECTIVE = ("sft", "distill")  # commands whose processes train one model
TASK = "{task}"


class _Sbatch(Template):
    """A template in which `$` is bash's and `@{name}` is filled in."""

    delimiter = "@"


def render(settings: SlurmSettings) -> str:
    """The sbatch script of a job, ready to submit.

    Raises:
        UsageError: the command cannot run like this, or its arguments name no output directory.
    """
    name = _template_name(settings)
    task = "$SLURM_ARRAY_TASK_ID"
    end = _Sbatch(_shipped("requeue.sh")).substitute(
        out=_quote(_output(settings.arguments)),
        max_requeues=settings.max_requeues,
        identity=f"${{SLURM_ARRAY_JOB_ID}}_{task}" if settings.array else "$SLURM_JOB_ID",
        submit=f"sbatch --array={task}" if settings.array else "sbatch",
    )
    return _Sbatch(_shipped(f"{name}.sbatch")).substitute(
        name=f"thack-{settings.command}",
        options="\n".join(_options(settings)),
        command=_command(settings),
        end=end.rstrip(),
        time=settings.time,
        warn_s=settings.warn_s,
        last=settings.array - 1,
        array=settings.array,
        nodes=settings.nodes,
        tasks=settings.tasks,
    )


def _shipped(name: str) -> str:
    return (files("thack") / "slurm" / name).read_text(encoding="utf-8")


def templates() -> list[str]:
    """Names of the shipped templates."""
    folder = files("thack") / "slurm"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".sbatch"))


def _template_name(settings: SlurmSettings) -> str:
    if settings.command not in COMMANDS:
        raise UsageError(f"no job for thack {settings.command}", hint=f"one of: {', '.join(COMMANDS)}")
    if settings.nodes * settings.tasks > 1:
        _check_ranks(settings)
    if not settings.array:
        return "single" if settings.nodes == 1 else "multi-node"
    if settings.command == "cache-logits":
        return "cache-array"
    if not any(TASK in argument for argument in settings.arguments):
        raise UsageError(
            f"`array` {settings.array} would run the same command {settings.array} times",
            hint=f"put {TASK} where the tasks differ, for example: --seed {TASK} --out runs/a-{TASK}",
        )
    return "array"


def _check_ranks(settings: SlurmSettings) -> None:
    if settings.command not in COLLECTIVE:
        by_array = settings.command == "cache-logits"
        raise UsageError(
            f"thack {settings.command} runs as one process",
            hint="give `array` instead" if by_array else "leave out `nodes` and `tasks`",
        )
    if settings.array:
        raise UsageError(
            "each task of an array is a run of its own, with one process",
            hint="leave out `array`, or `nodes` and `tasks`",
        )


def _options(settings: SlurmSettings) -> list[str]:
    lines = [f"#SBATCH --cpus-per-task={settings.cpus}", f"#SBATCH --mem={settings.memory}"]
    if settings.gpus and settings.nodes * settings.tasks > 1:
        # Per node where ranks communicate: GPUs that are bound to a task cannot reach their neighbours.
        lines.append(f"#SBATCH --gpus-per-node={settings.gpus * settings.tasks}")
    elif settings.gpus:
        lines.append(f"#SBATCH --gpus-per-task={settings.gpus}")
    for name, value in (("partition", settings.partition), ("account", settings.account)):
        if value:
            lines.append(f"#SBATCH --{name}={value}")
    return lines


def _command(settings: SlurmSettings) -> str:
    words = [settings.python, "-m", "thack", settings.command, *settings.arguments]
    return " ".join(map(_quote, words))


def _quote(word: str) -> str:
    """Quoted for bash, with the number of the array task left for Slurm to fill in."""
    quoted = shlex.quote(word)
    return quoted if TASK not in word else quoted.replace(TASK, "'\"$SLURM_ARRAY_TASK_ID\"'")


def _output(arguments: tuple[str, ...]) -> str:
    """The output directory that the command is given: where STATUS.json will be."""
    for index, argument in enumerate(arguments):
        if argument == "--out" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--out="):
            return argument.removeprefix("--out=")
    raise UsageError(
        "a job needs --out among the command's arguments",
        hint="after --, for example: thack slurm distill -- --cache cache/ --student ./student --out runs/a",
    )
