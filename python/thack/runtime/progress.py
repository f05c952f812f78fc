"""Progress of long work, independent of how it is shown.

Work takes a `Progress` and opens tasks on it. The command line passes one that rich draws; scripts and tests pass
`SILENT`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One line of progress."""

    def advance(self, amount: float = 1, **fields: object) -> None:
        """Advance by `amount` units, and show `fields` (such as `loss=1.23`) after the bar."""

    def left(self, seconds: float) -> None:
        """Tell how long the rest takes, where the units alone do not tell."""


class Progress(Protocol):
    """A place where work opens tasks and leaves notes."""

    def task(self, name: str, total: float | None, unit: str = "") -> AbstractContextManager[Task]:
        """Open a task of `total` units (None: unknown); closes with the context.

        Without total and unit it is a phase, such as "loading teacher": it is shown while it lasts.
        """

    def note(self, message: str) -> None:
        """One line that stays on the screen."""


class _Silent:
    def advance(self, amount: float = 1, **fields: object) -> None:
        pass

    def left(self, seconds: float) -> None:
        pass

    def task(self, name: str, total: float | None, unit: str = "") -> AbstractContextManager[Task]:
        return nullcontext(self)

    def note(self, message: str) -> None:
        pass


SILENT: Progress = _Silent()
