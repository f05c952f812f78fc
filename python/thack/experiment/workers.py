"""Independent stages side by side: one process per core, each with one thread.

A small model's operations are too short to share between threads: two processes with one thread each get
through two stages in little more than the time that one takes. With one core, or on a GPU, stages run one
after the other in this process.

Workers send their progress through a queue and are told to stop when this process is, or when it is gone.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from time import monotonic, sleep
from typing import Any, Protocol, TypeVar

from thack.errors import ThackError
from thack.experiment.relay import Relay, drawn
from thack.runtime.device import choose_device
from thack.runtime.preemption import StopFlag
from thack.runtime.progress import Progress
from thack.runtime.threads import threads

T = TypeVar("T", covariant=True)
_POLL_S = 0.5
_GRACE_S = 60.0  # for an orphan to save what it has


class Work(Protocol[T]):
    """One piece of work, picklable; gets the progress of the process it runs in."""

    def __call__(self, progress: Progress) -> T: ...


def run_all(work: Sequence[Work[T]], progress: Progress) -> list[T]:
    """Results in the order of `work`. The first failure stops what has not begun, and is raised."""
    workers = min(len(work), threads())  # a GPU is used by one stage at a time
    if workers < 2 or choose_device("auto").type != "cpu":
        return [piece(progress) for piece in work]
    context = get_context("spawn")  # threads have started here: a fork could deadlock (trap 30)
    queue = context.Queue()
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(queue, os.getpid())) as pool,
        drawn(queue, progress) as pids,
    ):
        return _collect([pool.submit(_run, piece) for piece in work], pool, pids)


def _collect(futures: Sequence[Future[T]], pool: ProcessPoolExecutor, pids: set[int]) -> list[T]:
    with StopFlag() as stop:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=_POLL_S)
            if stop.requested or any(future.exception() for future in done):
                pool.shutdown(wait=False, cancel_futures=True)
                break
        if stop.requested:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        wait(futures)
        if stop.requested:
            raise stop.error("every finished stage, and a checkpoint of those that were running")
    failures = [f.exception() for f in futures if not f.cancelled() and f.exception()]
    if any(isinstance(failure, BrokenProcessPool) for failure in failures):
        raise ThackError("a worker process died (out of memory, or killed)", hint="run the same command again to go on")
    if failures and failures[0] is not None:
        raise failures[0]
    return [future.result() for future in futures]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """The workers read their number of threads from the environment when they start."""
    names = ("THACK_NUM_THREADS", "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_relay: Relay


def _start(queue: Any, parent: int) -> None:
    global _relay
    _relay = Relay(queue)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _run(piece: Work[T]) -> T:
    return piece(_relay)


def _follow(parent: int) -> None:
    """Stop cleanly when the process that started this one is gone: nobody would collect the result."""
    while os.getppid() == parent:
        sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    end = monotonic() + _GRACE_S
    while monotonic() < end:
        sleep(_POLL_S)
    os._exit(75)
