"""The standard streams of a command: what cannot be written there must not end the work."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO, cast

# C0 but tab and line feed, DEL, C1, marks of direction, separators of lines, halves of surrogate pairs.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    """`text` with what would steer a terminal written out, as in JSON.

    Example:
        >>> print(escaped("a\x1b[2Jb"))
        a\\u001b[2Jb
    """
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str) -> None:
    """One line on stderr; it may hold text of strangers."""
    sys.stderr.write(escaped(text) + "\n")
    sys.stderr.flush()


class _Lossy:
    """A stream for progress and notes: what cannot be written (a full disk, a dead pipe) is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def protect_streams() -> None:
    """Make stderr drop what it cannot write, and open what the shell has closed (`>&-`).

    A closed descriptor would be given to the next file that is opened, and a library's message would end up in it.
    Characters that the encoding of stdout does not have are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115 - open until the process ends
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        reconfigure(errors="backslashreplace")
    sys.stderr = cast(TextIO, _Lossy(sys.stderr))


def abandon_stdout() -> None:
    """Send what stdout still holds nowhere: Python would complain about it as it exits."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
