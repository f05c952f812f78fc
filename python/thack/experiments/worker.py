"""One worker process, from both ends of a pipe of its own: stages go in, progress and results come back.

No lock is shared between workers: whoever dies, at whatever moment, keeps none of the others waiting.

*Signals.* The first process asks a worker to stop by SIGTERM. Within a stage that stops the stage, which saves what it
has; between two stages it ends the process. Ctrl-C reaches every process of a terminal, and Slurm sends SIGUSR2 to
every process of a step: between two stages a worker leaves both to the first process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from time import monotonic, sleep

from thack.errors import ThackError
from thack.experiments.relay import Drawing, Event, Relay
from thack.experiments.stages import Stage
from thack.runtime.progress import Progress

_POLL_S = 0.5
_GRACE_S = 60.0  # in which an orphan may save what it has
_LEFT_TO_THE_FIRST = tuple(number for name in ("SIGINT", "SIGUSR2") if (number := getattr(signal, name, None)))


class Done:
    """The end of a stage, with the reason if it failed."""

    def __init__(self, error: ThackError | None) -> None:
        self.error = error


class WorkerDiedError(Exception):
    """The process ended without a result: out of memory, or killed."""


class Worker:
    """The first process's end: a process that runs one stage at a time, with one thread."""

    def __init__(self, progress: Progress) -> None:
        context = get_context("spawn")  # this process has threads: after a fork a child could deadlock
        self._drawing = Drawing(progress)
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, os.getpid()))
        with _held_back():
            self._process.start()
        other.close()

    @property
    def handles(self) -> tuple[Connection, int]:
        """What `multiprocessing.connection.wait` waits for: a message, or the end of the process."""
        return self._pipe, self._process.sentinel

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def give(self, stage: Stage) -> None:
        """Let it run a stage."""
        with suppress(OSError):  # it is gone: `take` says so
            self._pipe.send(stage)

    def take(self) -> Done | None:
        """Read one message if there is one; draws progress.

        Returns:
            The end of the stage; None: it still runs.

        Raises:
            WorkerDiedError: the process has ended.
        """
        try:
            if not self._pipe.poll():
                if self.is_alive or self._pipe.poll():
                    return None
                raise EOFError
            message: Done | Event = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._drawing.close()
            raise WorkerDiedError from error
        if isinstance(message, Done):
            return message
        self._drawing.draw(message)
        return None

    def ask_to_stop(self) -> None:
        """Stop its stage, which saves what it has."""
        self._process.terminate()

    def close(self) -> None:
        """Let it end after its stage, and wait for that."""
        self._pipe.close()
        self._process.join()
        self._drawing.close()


def failure(error: Exception) -> ThackError:
    """A stage's exception as one line, which another process can read."""
    if isinstance(error, ThackError):
        return error
    return ThackError(f"{type(error).__name__}: {error}".split("\n")[0], hint="run its cell alone to see more")


@contextmanager
def _held_back() -> Iterator[None]:
    """Inside the block signals wait, and a process that is started there begins with them waiting."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_FIRST)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_THE_FIRST)


def _serve(pipe: Connection, parent: int) -> None:
    """The worker's life."""
    for number in _LEFT_TO_THE_FIRST:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_THE_FIRST)
    os.environ.update(THACK_NUM_THREADS="1", OMP_NUM_THREADS="1")  # read by `apply_threads` when work begins
    # Sent by a thread: a signal would raise in the middle of a message.
    messages: SimpleQueue[Done | Event] = SimpleQueue()
    threading.Thread(target=_send, args=(messages, pipe), daemon=True).start()
    threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()
    relay = Relay(messages.put)
    with suppress(EOFError, OSError):  # the first process has closed its end, or is gone
        while True:
            stage: Stage = pipe.recv()
            messages.put(Done(_run(stage, relay)))


def _run(stage: Stage, relay: Relay) -> ThackError | None:
    try:
        stage.run(relay)
    except Exception as error:
        return failure(error)
    return None


def _send(messages: SimpleQueue[Done | Event], pipe: Connection) -> None:
    with suppress(OSError):
        while True:
            pipe.send(messages.get())


def _stop_with(parent: int) -> None:
    """Stop cleanly when the process that started this one is gone: its result would be lost."""
    while os.getppid() == parent:
        sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    end = monotonic() + _GRACE_S
    while monotonic() < end:
        sleep(_POLL_S)
    os._exit(75)
