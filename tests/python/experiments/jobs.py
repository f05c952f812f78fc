"""What the stages of these tests do. Worker processes import this module by its name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from thack.errors import Preempted, ThackError
from thack.experiments.stages import Stage, Work, plan_stage
from thack.runtime.progress import Progress

#: The directory from which a worker process imports this module.
IMPORT_PATH = str(Path(__file__).parents[__name__.count(".")])


def write(word: str, path: Path, progress: Progress) -> None:
    path.mkdir(parents=True, exist_ok=True)  # like every work: it may have been killed here before
    (path / "word").write_text(word)


def report(path: Path, progress: Progress) -> None:
    """Show progress, then do as `write` does."""
    with progress.task("counting", 3, "x") as task:
        for number in range(3):
            task.advance(1, number=number)
    progress.note("counted")
    write(os.environ["OMP_NUM_THREADS"], path, progress)


def slow(path: Path, progress: Progress) -> None:
    time.sleep(0.3)
    write("slow", path, progress)


def fail(path: Path, progress: Progress) -> None:
    raise ThackError("no luck", hint="try again")


def stumble(path: Path, progress: Progress) -> None:
    raise ZeroDivisionError("a bug\nwith more lines")


def preempted(path: Path, progress: Progress) -> None:
    raise Preempted("asked to stop")


def die(path: Path, progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def named(root: Path, name: str, work: Work, *needs: Stage) -> Stage:
    return plan_stage(root, name, work, needs=needs)
