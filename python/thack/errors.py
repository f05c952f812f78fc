"""Errors a user can cause or fix. Each is one line, what to look at, and what to type next.

The command line prints them without a traceback and exits with `exit_code`; in Python they are
ordinary exceptions. Bugs stay what they are: `AssertionError`, `TypeError`, a traceback.

Messages, details and hints name a setting or parameter by its key in backticks, with a value where one helps:
`out`, `data.limit`, `target.kind = mixed`. They never name a flag. The command line replaces the backticks by
the flag (`--out`) or by `--set target.kind=mixed` (`thack.cli.messages`).
"""

from __future__ import annotations

from collections.abc import Sequence


class ThackError(Exception):
    """Something the user can act on: what is wrong, the two values or the place, what to type next."""

    exit_code = 1

    def __init__(self, message: str, *, details: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message, *(f"  {detail}" for detail in self.details)]
        return "\n".join([*lines, *([f"  {self.hint}"] if self.hint else [])])


class UsageError(ThackError, ValueError):
    """A flag, key or combination that makes no sense; nothing was started."""

    exit_code = 2


class DataError(ThackError, ValueError):
    """A file that cannot be read as what it should be: names the file, the line, the value."""


class ModelError(ThackError, ValueError):
    """A model directory or its output that cannot be used: missing weights, NaN logits."""


class CacheError(ThackError, ValueError):
    """A cache or shard that is damaged, incomplete, or not ours."""


class MismatchError(ThackError, ValueError):
    """Two things that do not belong together: both values are shown."""


class UndefinedLoss(ThackError, ValueError):
    """A divergence that is not defined on the target at hand, with the reason."""

    exit_code = 2


class DivergedError(ThackError):
    """Training produced a NaN or infinite loss; the last good checkpoint is kept."""


class PeerFailed(ThackError):
    """Another rank of this run failed; its own message says why."""


class HackingFound(ThackError):
    """The verdict is hacking, and the caller asked for an error in that case."""

    exit_code = 3


class Preempted(ThackError):
    """Stopped cleanly at a step boundary after a signal: run the same command again."""

    exit_code = 75


class Interrupted(ThackError):
    """Stopped by Ctrl-C, with what was done so far kept: run the same command again."""

    exit_code = 130
