"""A progress whose notes can be read."""

from __future__ import annotations

from thack.runtime.progress import SILENT


class Said:
    """A progress that keeps its notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.task = SILENT.task

    def note(self, message: str) -> None:
        self.lines.append(message)
