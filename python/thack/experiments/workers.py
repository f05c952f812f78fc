"""Stages side by side: one process per core, each with one thread, each stage as soon as what it needs is there.

A small model's operations are too short to share between threads: two processes with one thread each get
through two stages in little more than the time that one takes. A stage that has nothing to run beside it gets
all threads of this process; on a GPU, or with one core, so does every stage.

A stage that fails takes with it what stands on it, and nothing else. A worker that dies (out of memory, killed)
breaks its pool: what ran in it is tried again, one stage at a time, so that only the culprit fails.

Workers send their progress through a queue and are told to stop when this process is, or when it is gone.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from time import monotonic, sleep
from types import TracebackType
from typing import Any

from thack.errors import Interrupted, Preempted, ThackError
from thack.experiments.relay import Relay, drawn
from thack.experiments.stages import Stage, walk
from thack.runtime.preemption import StopFlag
from thack.runtime.progress import Progress
from thack.runtime.threads import threads

_POLL_S = 0.5
_GRACE_S = 60.0  # for an orphan to save what it has
Failures = dict[str, ThackError]  # by the stage's key


def make_all(wanted: Sequence[Stage], progress: Progress, *, workers: int = 0) -> Failures:
    """Make these stages and all they stand on; what failed, and what could not begin for that reason."""
    todo = {stage.key: stage for stage in walk(wanted) if not stage.made}
    failures: Failures = {}
    with _Crew(progress, workers or _num_workers()) as crew:
        while todo or crew.running:
            for stage in list(todo.values()):
                _give_up(stage, todo, failures)
            ready = [stage for stage in todo.values() if all(upstream.made for upstream in stage.needs)]
            for stage in crew.take(ready):
                del todo[stage.key]
            failures |= crew.finished()
    return failures


def _give_up(stage: Stage, todo: dict[str, Stage], failures: Failures) -> None:
    """Leave out a stage that stands on a failed one."""
    for upstream in stage.needs:
        if upstream.key in failures:
            cause = failures[upstream.key]
            failures[stage.key] = ThackError(f"{upstream.name} failed: {cause.message}", hint=cause.hint)
            del todo[stage.key]
            return


def _num_workers() -> int:
    from thack.runtime.device import choose_device  # torch: workers that only wait do without

    return threads() if choose_device("auto").type == "cpu" else 1  # a GPU is used by one stage at a time


class _Crew:
    """The worker processes; never more stages in flight than workers, so that it is known who ran what."""

    def __init__(self, progress: Progress, workers: int) -> None:
        self.running: dict[Future[None], Stage] = {}
        self._progress = progress
        self._workers = workers
        self._suspects: dict[str, Stage] = {}
        self._done: Failures = {}
        self._context = get_context("spawn")  # threads have started here: a fork could deadlock (pitfall 30)
        self._queue: Any = None
        self._pids: set[int] = set()
        self._pool: ProcessPoolExecutor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> _Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_pool()
        self._stack.close()

    def take(self, ready: Sequence[Stage]) -> list[Stage]:
        """Begin as many as there is room for; a lone one is made here. Returns those that were begun."""
        if self._suspects:
            return []
        if ready and not self.running and (self._workers < 2 or len(ready) == 1):
            self._make_here(ready[0])
            return [ready[0]]
        taken = list(ready[: self._workers - len(self.running)])
        for stage in taken:
            self._submit(stage)
        return taken

    def finished(self) -> Failures:
        """Wait until something ends; failures by key."""
        if self._suspects and not self.running:
            self._submit(self._suspects.pop(next(iter(self._suspects))), alone=True)
        if self.running:
            self._collect()
        found, self._done = self._done, {}
        return found

    def _make_here(self, stage: Stage) -> None:
        try:
            stage.make(self._progress)
        except (Preempted, Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            self._done[stage.key] = _told(error)

    def _submit(self, stage: Stage, *, alone: bool = False) -> None:
        if self._queue is None:
            self._queue = self._context.Queue()
            self._pids = self._stack.enter_context(drawn(self._queue, self._progress))
        if self._pool is None:
            arguments = (self._queue, os.getpid())
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=self._context, initializer=_start, initargs=arguments
            )
        self._alone = alone
        self.running[self._pool.submit(_run, stage)] = stage

    def _collect(self) -> None:
        with StopFlag() as stop:
            done: set[Future[None]] = set()
            while not done and not stop.requested:
                done, _ = wait(self.running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            if stop.requested:
                self._interrupt(stop)
        for future in done:
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                self._after_death()
                return
            stage = self.running.pop(future)
            if isinstance(error, Preempted | Interrupted):
                raise error
            if error is not None:
                self._done[stage.key] = _told(error)

    def _after_death(self) -> None:
        """All that were in flight are suspects; one that was alone is the culprit."""
        wait(self.running)
        alive = {s.key: s for f, s in self.running.items() if isinstance(f.exception(), BrokenProcessPool)}
        self.running.clear()
        self._stop_pool()
        if self._alone or len(alive) == 1:
            hint = "run the same command again to go on"
            self._done |= {key: ThackError("its process died (out of memory, or killed)", hint=hint) for key in alive}
        else:
            self._suspects |= alive

    def _interrupt(self, stop: StopFlag) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        wait(self.running)
        raise stop.error("every finished stage, and a checkpoint of those that were running")

    def _stop_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._pids.clear()


def _told(error: BaseException) -> ThackError:
    if isinstance(error, ThackError):
        return error
    return ThackError(f"{type(error).__name__}: {error}".split("\n")[0], hint="run it with -v, alone, to see more")


_relay: Relay


def _start(queue: Any, parent: int) -> None:
    global _relay
    os.environ.update(THACK_NUM_THREADS="1", OMP_NUM_THREADS="1")  # read by `apply_threads` when work begins
    _relay = Relay(queue)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _run(stage: Stage) -> None:
    stage.make(_relay)


def _follow(parent: int) -> None:
    """Stop cleanly when the process that started this one is gone: nobody would collect the result."""
    while os.getppid() == parent:
        sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    end = monotonic() + _GRACE_S
    while monotonic() < end:
        sleep(_POLL_S)
    os._exit(75)
