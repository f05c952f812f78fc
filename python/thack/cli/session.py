"""The command line that runs in this process: its common flags, and where results and progress go."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from thack.cli.console import print_json
from thack.cli.messages import Names
from thack.runtime.progress import SILENT, Progress
from thack.runtime.ranks import current_rank


@dataclass(slots=True)
class Session:
    """What every command line may say, and how its command spells its parameters."""

    verbose: bool = False
    json: bool = False
    quiet: bool = False
    names: Names = field(default_factory=Names)

    def reset(self) -> None:
        """Forget the command line before."""
        self.verbose, self.json, self.quiet, self.names = False, False, False, Names()


session = Session()


def emit(document: object, show: Callable[[], object]) -> None:
    """Print a result once, on the first rank: as one JSON document under `--json`, else by `show`."""
    if not current_rank().is_first:
        return
    if session.json:
        print_json(document)
    else:
        show()


def shown_progress() -> AbstractContextManager[Progress]:
    """Bars on a terminal, lines elsewhere, nothing under `--quiet`."""
    if session.quiet:
        return nullcontext(SILENT)
    from thack.cli.progress import make_progress  # rich's bars: not needed to print help

    return make_progress(session.names.translate)


def command_line() -> str:
    """What the user typed, to type again."""
    return shlex.join(["thack", *sys.argv[1:]])
