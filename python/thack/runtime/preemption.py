"""Preemption: signals and STOP files set a flag, and work that reads it between steps stops cleanly.

Slurm sends SIGUSR2 (`--signal`) or SIGTERM. A user presses Ctrl-C, or creates a file STOP in the run directory.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import FrameType, TracebackType

from thack.errors import Interrupted, Preempted, ThackError

_SIGNALS = ("SIGTERM", "SIGUSR2", "SIGINT")
_REASONS = ("", "STOP file", "SIGUSR2", "SIGTERM", "SIGINT")  # by urgency: of several ranks' reasons the last counts
_FILE_CHECK_S = 1.0  # a stat per step is not free on a network file system


class StopFlag:
    """`with StopFlag(run_dir) as stop:` and between steps `if stop.requested: save; raise stop.error(...)`.

    A second Ctrl-C interrupts at once. Outside the main thread, where Python allows no handlers, only the files are
    watched. The previous handlers are restored at the end.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._signal: str | None = None
        self._previous: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}
        self._checked = -_FILE_CHECK_S
        self._stop_file = False

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and self._signal == "SIGINT":
            raise KeyboardInterrupt
        self._signal = name

    @property
    def requested(self) -> str | None:
        """What asked for a stop ("SIGTERM", "SIGUSR2", "SIGINT", "STOP file"), or None."""
        if self._signal is not None:
            return self._signal
        if not self._stop_file and self._directory is not None and monotonic() - self._checked >= _FILE_CHECK_S:
            self._checked = monotonic()
            self._stop_file = (self._directory / "STOP").exists()
        return "STOP file" if self._stop_file else None

    @property
    def urgency(self) -> int:
        """`requested` as a number, 0 for none: ranks agree on the largest, and all give the same reason."""
        return _REASONS.index(self.requested or "")

    def adopt(self, urgency: int) -> bool:
        """Take the urgency that the ranks agreed on; whether it is a stop."""
        if urgency > self.urgency:
            self._signal = _REASONS[urgency]
        return urgency > 0

    def save_requested(self) -> bool:
        """True once for every file SAVE in the run directory, which is removed."""
        if self._directory is None:
            return False
        try:
            (self._directory / "SAVE").unlink()
        except FileNotFoundError:
            return False
        return True

    def error(self, kept: str) -> ThackError:
        """The error to raise once the state is saved; `kept` is what is on disk ("step 120 in runs/a")."""
        reason = self.requested or "a request"
        if self._directory is not None:  # or the next start would stop at once
            (self._directory / "STOP").unlink(missing_ok=True)
        kind = Interrupted if reason == "SIGINT" else Preempted
        cause = "Ctrl-C" if reason == "SIGINT" else reason
        return kind(f"stopped by {cause}", details=[f"kept: {kept}"], hint="run the same command again to resume")
