"""Preemption: signals and STOP files ask work to stop. It does, and leaves what can be resumed.

Slurm sends SIGUSR2 (`--signal`) or SIGTERM. A user presses Ctrl-C, or creates a file STOP in the run directory.

Where work is cut into steps, a `StopFlag` is read between them. Everywhere else (start-up, imports, generation) a
signal raises at once: `StopRequest`, or KeyboardInterrupt for Ctrl-C. `interruptible` turns both into errors. They are
no `Exception`, so that no third party's `except Exception` takes one for its own. What is on disk is whole at any time,
so no place is a bad one to stop at; STATUS.json alone is written undisturbed (`undisturbed`).

Outside the main thread Python allows no handlers: there, only the files are watched.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import FrameType, TracebackType

from thack.errors import Interrupted, PeerFailed, Preempted, ThackError

_SIGNALS = ("SIGTERM", "SIGUSR2", "SIGINT")
_REASONS = ("", "STOP file", "SIGUSR2", "SIGTERM", "SIGINT")  # by urgency: of several ranks' reasons the last counts
_FILE_CHECK_S = 1.0  # a stat per step is not free on a network file system
_REPEATED_S = 2.0  # a signal so soon after another is the same request: Slurm sends several, a terminal two

Handler = signal.Handlers | Callable[[int, FrameType | None], object] | int | None


class StopRequest(BaseException):
    """A signal asked this process to stop, where no `StopFlag` is read."""


class _Process:
    """What this process was asked. Handlers write it, so it has no lock."""

    pending: str | None = None  # a signal that nothing has answered yet
    raised_at = -_REPEATED_S  # when a handler last raised, by `monotonic`
    depth = 0  # of `interruptible` and `install`
    undisturbed = 0
    withdrawn = ""  # why nothing more may be written


_process = _Process()


def install() -> None:
    """Answer signals from now to the end of the process, by `StopRequest`: for a command line's first line."""
    _process.depth += 1
    _install(_raise)


def ignore_signals() -> None:
    """From now on signals change nothing: this process is about to exit."""
    _install(signal.SIG_IGN)


def is_asked_to_stop() -> bool:
    """Whether a signal waits for the step, or the evaluation, that is being done."""
    return _process.pending is not None


@contextmanager
def interruptible(kept: Callable[[], str] = str) -> Iterator[None]:
    """Signals inside the block end it at once, as an error that says what is kept.

    Args:
        kept: What is on disk ("step 120 in runs/a"), asked when it ends.

    Raises:
        Preempted: SIGTERM or SIGUSR2 was received.
        Interrupted: Ctrl-C was pressed.
    """
    previous = _install(_raise) if _is_main_thread() else {}
    _process.depth += 1
    try:
        yield
    except (StopRequest, KeyboardInterrupt, PeerFailed) as error:
        if (reason := _reason(error)) is None:
            raise
        raise stop_error(reason, kept()) from error
    finally:
        _restore(previous)
        _process.depth -= 1
        if not _process.depth:
            _process.pending = None


def _reason(error: BaseException) -> str | None:
    if isinstance(error, KeyboardInterrupt):
        return "SIGINT"
    return str(error) if isinstance(error, StopRequest) else _process.pending  # a peer that got the signal first


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals inside the block wait: it is short."""
    _process.undisturbed += 1
    try:
        yield
    finally:
        _process.undisturbed -= 1


def answer_pending() -> None:
    """Stop here if a signal came while nothing could answer it.

    Raises:
        StopRequest: it did.
    """
    if _process.pending:
        raise StopRequest(_process.pending)


def withdraw(reason: str) -> None:
    """End this process's work at once and write nothing more: its output is another's now."""
    _process.withdrawn = reason
    if signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN):
        os.kill(os.getpid(), signal.SIGTERM)


def is_withdrawn() -> bool:
    """Whether this process's output is another's now."""
    return bool(_process.withdrawn)


def rejoin() -> None:
    """The work on the lost output has ended: this process may write others."""
    _process.withdrawn = ""


def stop_error(reason: str, kept: str = "") -> ThackError:
    """The error to raise when work was stopped: what asked for it, and what is on disk."""
    details = [f"kept: {kept}"] if kept else []
    kind = Interrupted if reason == "SIGINT" else Preempted
    message = f"stopped by {'Ctrl-C' if reason == 'SIGINT' else reason}" if reason in _REASONS else reason
    return kind(message, details=details, hint="run the same command again to resume")


def _raise(number: int, frame: FrameType | None) -> None:
    _process.pending = signal.Signals(number).name
    if _process.undisturbed or (monotonic() - _process.raised_at < _REPEATED_S and not _process.withdrawn):
        return
    _process.raised_at = monotonic()
    raise KeyboardInterrupt if number == signal.SIGINT else StopRequest(_process.withdrawn or _process.pending)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _install(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> dict[int, Handler]:
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(previous: dict[int, Handler]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
    previous.clear()


class StopFlag:
    """`with StopFlag(run_dir) as stop:` and between steps `if stop.requested: save; raise stop.error(...)`.

    A second Ctrl-C interrupts at once. A signal that came before the block counts too, and one that it does not answer
    is left to the next. The previous handlers are restored at the end.
    """

    def __init__(self, *directories: Path) -> None:
        """`directories`: where the files STOP and SAVE are looked for."""
        self._directories = directories
        self._signal: str | None = None
        self._previous: dict[int, Handler] = {}
        self._checked = -_FILE_CHECK_S
        self._stop_file = False

    def __enter__(self) -> StopFlag:
        if _is_main_thread():
            self._previous = _install(self._receive)
            self._signal = _process.pending
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if _process.withdrawn:
            raise StopRequest(_process.withdrawn)
        if name == "SIGINT" and self._signal == "SIGINT":
            raise KeyboardInterrupt
        self._signal = name
        if _process.depth:
            _process.pending = name

    @property
    def requested(self) -> str | None:
        """What asked for a stop ("SIGTERM", "SIGUSR2", "SIGINT", "STOP file"), or None."""
        if self._signal is not None:
            return self._signal
        if not self._stop_file and monotonic() - self._checked >= _FILE_CHECK_S:
            self._checked = monotonic()
            self._stop_file = any((directory / "STOP").exists() for directory in self._directories)
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
        """True once for every file SAVE, which is removed."""
        return any([_removed(directory / "SAVE") for directory in self._directories])

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside the block a request raises at once: for a part of the work that is long, and kept by others."""
        if not self._previous:
            yield
            return
        _install(_raise)
        try:
            if self._signal is not None:
                raise StopRequest(self._signal)
            yield
        finally:
            _install(self._receive)
            self._signal = self._signal or _process.pending

    def error(self, kept: str) -> ThackError:
        """The error to raise once the state is saved; `kept` is what is on disk ("step 120 in runs/a")."""
        for directory in self._directories:  # or the next start would stop at once
            _removed(directory / "STOP")
        return stop_error(self.requested or "STOP file", kept)


def _removed(path: Path) -> bool:
    """Whether it was there to be removed."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
