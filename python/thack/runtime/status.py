"""STATUS.json in an output directory: what a batch script reads to decide whether to requeue.

Exit codes get lost on the way: torchrun turns every child's code into 1, and Slurm does not requeue on 75.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from thack.errors import DataError, Interrupted, MismatchError, Preempted, ThackError, UsageError
from thack.files import directory_kind, json_text, write_json
from thack.reading import read_json
from thack.runtime.failures import explained_failure
from thack.runtime.preemption import answer_pending, interruptible, is_withdrawn, undisturbed
from thack.runtime.ranks import current_rank
from thack.schema.run import Status

STATUS = "STATUS.json"
START = "THACK_START"  # set by a batch script: its name for this start


@contextmanager
def recorded(
    directory: Path,
    kind: str,
    *,
    step: Callable[[], int | None] = lambda: None,
    kept: Callable[[], str] = str,
    complete: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Keep STATUS.json true however the work inside ends, and explain signals and failures of the machine.

    Args:
        directory: Where the work writes. An output that is a single file gets no STATUS.json.
        kind: Of the directory, as `claim_output` marks it. A directory of another kind, or unmarked, is left alone.
        step: The step of the last checkpoint, where the work has steps.
        kept: What is on disk when a signal ends the work.
        complete: Of work that ranks share without waiting for each other: whether all of it is done. Until then the
            directory says "running", and the rank that finds it done writes "finished". None: its end is the work's.

    A command that a finished output refuses (`UsageError`, `MismatchError`) has changed nothing: it stays finished.

    Raises:
        Preempted, Interrupted: a signal was received; see `interruptible`.
        ThackError: in the place of an exception that `explained_failure` knows; every other one passes through.
    """
    was_finished = _is_finished(directory)
    try:
        with interruptible(kept):
            with undisturbed():
                write_status(directory, kind, Status(state="running", step=step()))
            answer_pending()
            yield
    except BaseException as error:
        shown = error if isinstance(error, ThackError) else explained_failure(error) or error
        with undisturbed(), suppress(OSError, ThackError):  # a full disk: the cause of the end matters more
            refused = was_finished and isinstance(shown, UsageError | MismatchError)
            if not is_withdrawn():
                ending = Status(state="finished", step=step()) if refused else _ending(shown, step())
                write_status(directory, kind, ending)
        if shown is error:
            raise
        raise shown from error
    with undisturbed():
        if complete is None or complete():
            write_status(directory, kind, Status(state="finished", step=step()), by_any_rank=complete is not None)


def _is_finished(directory: Path) -> bool:
    with suppress(DataError):
        found = read_status(directory)
        return found is not None and found.state == "finished"
    return False


def _ending(error: BaseException, step: int | None) -> Status:
    return Status(
        state="stopped" if isinstance(error, Preempted | Interrupted) else "failed",
        step=step,
        exit_code=getattr(error, "exit_code", 1),
        reason=error.message if isinstance(error, ThackError) else f"{type(error).__name__}: {error}".split("\n")[0],
    )


def write_status(directory: Path, kind: str, status: Status, *, by_any_rank: bool = False) -> None:
    """Write STATUS.json, by the first rank only, and never into a directory of another kind that `out` may name."""
    if (by_any_rank or current_rank().is_first) and directory_kind(directory) == kind:
        path, content = directory / STATUS, replace(status, start=os.environ.get(START, "")).dump()
        try:
            write_json(path, content)
        except ThackError:
            if not _overwritten(path, json_text(content).encode()):
                raise


def _overwritten(path: Path, data: bytes) -> bool:
    """A full disk has no room for a second file: a status that fits into the blocks of the old one goes there."""
    with suppress(OSError), open(path, "r+b", buffering=0) as file:
        if len(data) <= 512 * os.fstat(file.fileno()).st_blocks and file.write(data) == len(data):
            file.truncate()
            return True
    return False


def read_status(directory: Path) -> Status | None:
    """The content of STATUS.json; None where there is none.

    Raises:
        DataError: it is not a status of this version.
    """
    path = directory / STATUS
    return Status.parse(read_json(path), str(path)) if path.is_file() else None
