"""Errors a user can cause or fix: one line, details, and what to do next.

The command line prints them without a traceback and exits with `exit_code`; in Python they are
ordinary exceptions. Bugs stay what they are: `AssertionError`, `TypeError`, a traceback.

Messages, details and hints name a setting or parameter by its key in backticks, with a value where one helps:
`out`, `data.limit`, `target.kind = mixed`. They never name a flag. The command line replaces the backticks by
the flag (`--out`) or by `--set target.kind=mixed` (`thack.cli.messages`).
"""

from __future__ import annotations

from collections.abc import Sequence


class ThackError(Exception):
    """Something the user can act on.

    Args:
        message: What is wrong, in one line.
        details: The values or places that show it, one per line.
        hint: What to do next.

    Example:
        >>> error = ThackError("`out` runs/a is a file", hint="give another `out`")
        >>> print(error)
        `out` runs/a is a file
          give another `out`
    """

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
    """A setting, or a combination of settings, that cannot work. Nothing was started."""

    exit_code = 2


class DataError(ThackError, ValueError):
    """A file that is not what it should be: names the file, the line and the value."""


class ModelError(ThackError, ValueError):
    """A model directory or its output that cannot be used: missing weights, NaN logits."""


class CacheError(ThackError, ValueError):
    """A cache or shard that is damaged, incomplete, or was not written by thack."""


class MismatchError(ThackError, ValueError):
    """Two inputs or outputs that do not belong together: both values are shown."""


class ServerError(ThackError):
    """A server that cannot be reached, refuses a request, or answers with what cannot be used."""


class UndefinedLoss(ThackError, ValueError):
    """A divergence that is not defined on a kind of target, with the reason."""

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
    """Stopped by Ctrl-C. Finished work is kept: run the same command again."""

    exit_code = 130


def plural(number: int, noun: str) -> str:
    """A count with its noun, for a message.

    Example:
        >>> plural(1, "shard"), plural(2000, "shard")
        ('1 shard', '2,000 shards')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
