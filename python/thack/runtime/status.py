"""STATUS.json in an output directory: what a batch script reads to decide whether to requeue.

Exit codes get lost on the way: torchrun turns every child's code into 1, and Slurm does not requeue on 75.
The states are running, stopped (exit_code 75: requeue), failed and finished.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thack.errors import Interrupted, Preempted, ThackError
from thack.files import directory_kind, write_json
from thack.runtime.ranks import current_rank

STATUS = "STATUS.json"


@contextmanager
def recorded(directory: Path, kind: str) -> Iterator[None]:
    """Leave STATUS.json when the work inside ends, however it ends, in a directory that is of this `kind` by then."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Preempted | Interrupted | KeyboardInterrupt)
        code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        reason = error.message if isinstance(error, ThackError) else f"{type(error).__name__}: {error}"
        with suppress(OSError, ThackError):  # the disk may be what is full: the cause of the end is the news
            _write(directory, kind, "stopped" if stopped else "failed", code, reason)
        raise
    _write(directory, kind, "finished", 0, "")


def _write(directory: Path, kind: str, state: str, exit_code: int, reason: str) -> None:
    """By the first rank only, and never into a directory of another kind, which a mistyped `out` may name."""
    if current_rank().is_first and directory_kind(directory) == kind:
        write_json(directory / STATUS, {"state": state, "exit_code": exit_code, "reason": reason})
