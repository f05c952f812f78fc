"""The command line that runs in this process: its common flags, and where results and progress go."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from thack.cli.console import print_json
from thack.cli.messages import Names
from thack.errors import ThackError
from thack.runtime.progress import SILENT, Progress
from thack.runtime.ranks import current_rank
from thack.runtime.streams import abandon_stdout, say


def _nothing() -> None:
    pass


@dataclass(slots=True)
class Session:
    """What every command line may say, and how its command spells its parameters."""

    verbose: bool = False
    json: bool = False
    quiet: bool = False
    command: str = "thack"
    close_progress: Callable[[], None] = _nothing  # before a result is printed: bars would be drawn into it
    names: Names = field(default_factory=Names)

    def reset(self) -> None:
        """Forget the command line before."""
        self.verbose, self.json, self.quiet = False, False, False
        self.command, self.names, self.close_progress = "thack", Names(), _nothing


session = Session()


def emit(document: object, show: Callable[[], object], *, out: Path | None = None) -> None:
    """Print a result once, on the first rank: as one JSON document under `--json`, else by `show`.

    Args:
        document: the result.
        show: prints it for people.
        out: where the work is on disk. It is done then, whether or not its result can be printed.

    Raises:
        ThackError: stdout cannot be written, and nothing else holds the result.
    """
    session.close_progress()
    if not current_rank().is_first:
        return
    try:
        if session.json:
            print_json(document)
        else:
            show()
            sys.stdout.flush()
    except (OSError, SystemExit) as error:  # rich exits where a pipe is dead
        abandon_stdout()
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "broken pipe"
        if out is None:
            raise ThackError(f"the result cannot be written to stdout: {why}") from error
        say(f"the result could not be printed ({why}); it is in {out}")


def shown_progress() -> AbstractContextManager[Progress]:
    """Bars on a terminal, lines elsewhere, nothing under `--quiet`."""
    if session.quiet:
        return nullcontext(SILENT)
    from thack.cli.progress import make_progress  # rich's bars: not needed to print help

    progress = make_progress(session.names.translate)
    session.close_progress = progress.close
    return progress


def command_line() -> str:
    """What the user typed, to type again."""
    return shlex.join(["thack", *sys.argv[1:]])
