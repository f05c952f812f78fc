"""How long work tells that it is alive, without knowing who listens.

Work takes a `Progress` and opens tasks on it; the command line passes one drawn by rich, scripts and
tests pass `SILENT`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One line of progress."""

    def advance(self, amount: float = 1, **fields: object) -> None:
        """Move on by `amount` units and show `fields` (such as `loss=1.23`) behind the bar."""


class Progress(Protocol):
    """A place where work opens tasks and leaves notes."""

    def task(self, name: str, total: float | None, unit: str = "") -> AbstractContextManager[Task]:
        """Open a task of `total` units (None: unknown); closes with the context."""

    def note(self, message: str) -> None:
        """One line that stays on the screen."""


class _Silent:
    def advance(self, amount: float = 1, **fields: object) -> None:
        pass

    def task(self, name: str, total: float | None, unit: str = "") -> AbstractContextManager[Task]:
        return nullcontext(self)

    def note(self, message: str) -> None:
        pass


SILENT: Progress = _Silent()
