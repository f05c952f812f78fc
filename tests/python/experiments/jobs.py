"""What the stages of these tests do. Worker processes import this module by its name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from thack.errors import Preempted, ThackError
from thack.experiments.stages import Stage, Work, plan_stage
from thack.runtime.preemption import StopFlag
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
    """Take a moment; counts its starts."""
    path.mkdir(parents=True, exist_ok=True)
    starts = path / "starts"
    starts.write_text(str(int(starts.read_text() or 0) + 1 if starts.exists() else 1))
    time.sleep(0.3)
    write("slow", path, progress)


def endless(path: Path, progress: Progress) -> None:
    time.sleep(120)


def signal_all(number: int, path: Path, progress: Progress) -> None:
    """Send a signal to every process of this job, once the worker beside this one is idle; stop after a moment."""
    time.sleep(0.5)
    with StopFlag() as stop:
        parent = os.getppid()
        for pid in [parent, *_children(parent)]:
            os.kill(pid, number)
        time.sleep(1)  # in which a training run would save
        raise stop.error("")


def _children(parent: int) -> list[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def fail(path: Path, progress: Progress) -> None:
    raise ThackError("no luck", hint="try again")


def stumble(path: Path, progress: Progress) -> None:
    raise ZeroDivisionError("a bug\nwith more lines")


def preempted(path: Path, progress: Progress) -> None:
    raise Preempted("asked to stop")


def die(path: Path, progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: Path, progress: Progress) -> None:
    if path.exists():
        return
    path.mkdir(parents=True)
    die(path, progress)


def named(root: Path, name: str, work: Work, *needs: Stage) -> Stage:
    return plan_stage(root, name, work, needs=needs)
