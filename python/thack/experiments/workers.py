"""Stages side by side: one process per core, each with one thread, each stage as soon as its upstream is complete.

A small model's operations are too short to share between threads: two processes with one thread each complete two
stages in little more time than one takes. A stage that has nothing to run beside it runs here and gets all threads; on
a GPU, or with one core, so does every stage.

A stage that fails takes its downstream with it, and nothing else.

Suspects. A worker that dies (out of memory, killed) breaks its pool, and every stage in flight ends with the same
error: any of them may be the cause. If there was one, it has failed. If there were several, they become suspects.
While there are suspects no other stage starts, and each suspect runs alone in a new pool. The one that breaks the
pool again has failed; the others complete. Never more stages are in flight than there are workers, so a stage that
waits in a queue is never a suspect.

Workers send their progress through a queue. They are asked to stop when this process is, and stop by themselves when
it is gone.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from time import monotonic, sleep
from types import TracebackType

from thack.errors import Interrupted, Preempted, ThackError
from thack.experiments.relay import Events, Relay, drawn
from thack.experiments.stages import Stage, with_upstream
from thack.runtime.preemption import StopFlag, StopRequest
from thack.runtime.progress import Progress
from thack.runtime.threads import threads

_POLL_S = 0.5
_GRACE_S = 60.0  # in which an orphan may save what it has
Failures = Mapping[str, ThackError]  # by the stage's key


def run_stages(wanted: Sequence[Stage], progress: Progress, *, workers: int = 0) -> Failures:
    """Run stages and everything upstream of them, unless they are complete.

    Args:
        wanted: The stages.
        progress: Where they show how far they are.
        workers: Processes; 0: one per core, or one on a GPU.

    Returns:
        The stages that failed, and those downstream of them, each with the reason.

    Raises:
        Preempted: this process was asked to stop; complete stages stay.
        Interrupted: likewise, by Ctrl-C.
    """
    pending = [stage for stage in with_upstream(wanted) if not stage.is_complete]
    failures: dict[str, ThackError] = {}
    with Workers(progress, workers or _num_workers()) as crew:
        while pending or crew.busy:
            failures |= _blocked(pending, failures)
            pending = [stage for stage in pending if stage.key not in failures]
            ready = [stage for stage in pending if all(upstream.is_complete for upstream in stage.needs)]
            started = {stage.key for stage in crew.start(ready)}
            pending = [stage for stage in pending if stage.key not in started]
            failures |= crew.wait()
    return failures


def _blocked(pending: Iterable[Stage], failures: Failures) -> Failures:
    """Stages downstream of a failed one; `pending` has upstream stages first."""
    found: dict[str, ThackError] = {}
    for stage in pending:
        upstream = next((one for one in stage.needs if one.key in failures or one.key in found), None)
        if upstream is not None:
            cause = found.get(upstream.key) or failures[upstream.key]
            found[stage.key] = ThackError(f"{upstream.name} failed: {cause.message}", hint=cause.hint)
    return found


def _num_workers() -> int:
    from thack.runtime.device import choose_device  # torch, which a worker without a stage does without

    return threads() if choose_device("auto").type == "cpu" else 1  # a GPU is used by one stage at a time


class Workers:
    """The worker processes and the stages in flight. Stages start by `start`, and end within `wait`."""

    def __init__(self, progress: Progress, workers: int) -> None:
        self._progress = progress
        self._workers = workers
        self._running: dict[Future[None], Stage] = {}
        self._suspects: list[Stage] = []
        self._failures: dict[str, ThackError] = {}  # since the last `wait`
        self._context = get_context("spawn")  # this process has threads: after a fork a child could deadlock
        self._events: Events | None = None
        self._pids: set[int] = set()
        self._pool: ProcessPoolExecutor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StopRequest | KeyboardInterrupt):  # between two waits: else this would wait for hours
            self._signal_workers()
        self._stop_pool()
        self._stack.close()

    @property
    def busy(self) -> bool:
        """Whether a stage is in flight, or a suspect waits."""
        return bool(self._running or self._suspects)

    def start(self, ready: Sequence[Stage]) -> Sequence[Stage]:
        """Start as many as there is room for, a lone one in this process; returns those that were started."""
        if self._suspects:
            return []
        if ready and not self._running and (self._workers < 2 or len(ready) == 1):
            self._run_here(ready[0])
            return ready[:1]
        started = ready[: self._workers - len(self._running)]
        for stage in started:
            self._submit(stage)
        return started

    def wait(self) -> Failures:
        """Wait until a stage in flight ends, if there is any; the failures since the last call, by key."""
        if self._suspects and not self._running:
            self._submit(self._suspects.pop(0))
        if self._running:
            self._settle(self._first_done())
        found, self._failures = self._failures, {}
        return found

    def _run_here(self, stage: Stage) -> None:
        try:
            stage.run(self._progress)
        except (Preempted, Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            self._failures[stage.key] = _failure(error)

    def _submit(self, stage: Stage) -> None:
        if self._events is None:
            self._events = self._context.Queue()
            self._pids = self._stack.enter_context(drawn(self._events, self._progress))
        if self._pool is None:
            arguments = (self._events, os.getpid())
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=self._context, initializer=_start_worker, initargs=arguments
            )
        self._running[self._pool.submit(_run_in_worker, stage)] = stage

    def _first_done(self) -> set[Future[None]]:
        with StopFlag() as stop:
            done: set[Future[None]] = set()
            while not done and not stop.requested:
                done = futures.wait(self._running, timeout=_POLL_S, return_when=futures.FIRST_COMPLETED).done
            if stop.requested:
                self._interrupt(stop)
        return done

    def _settle(self, done: Iterable[Future[None]]) -> None:
        """Take finished stages off the list; after the death of a worker, all of them."""
        if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            done = futures.wait(self._running).done
        broken: list[Stage] = []
        for future in done:
            stage, error = self._running.pop(future), future.exception()
            if isinstance(error, BrokenProcessPool):
                broken.append(stage)
            elif isinstance(error, Preempted | Interrupted):
                raise error
            elif error is not None:
                self._failures[stage.key] = _failure(error)
        if broken:
            self._stop_pool()
            self._suspect(broken)

    def _suspect(self, broken: list[Stage]) -> None:
        """One that was alone when its worker died is the cause; of several, each runs again, alone."""
        if len(broken) > 1:
            self._suspects += broken
            return
        hint = "run the same command again to resume"
        self._failures[broken[0].key] = ThackError("its process died (out of memory, or killed)", hint=hint)

    def _interrupt(self, stop: StopFlag) -> None:
        self._signal_workers()
        futures.wait(self._running)
        raise stop.error("every complete stage, and a checkpoint of those that were running")

    def _signal_workers(self) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _stop_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._pids.clear()


def _failure(error: BaseException) -> ThackError:
    if isinstance(error, ThackError):
        return error
    return ThackError(f"{type(error).__name__}: {error}".split("\n")[0], hint="run its cell alone to see more")


_relay: Relay  # of a worker process


def _start_worker(events: Events, parent: int) -> None:
    global _relay
    os.environ.update(THACK_NUM_THREADS="1", OMP_NUM_THREADS="1")  # read by `apply_threads` when work begins
    _relay = Relay(events)
    threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()


def _run_in_worker(stage: Stage) -> None:
    stage.run(_relay)


def _stop_with(parent: int) -> None:
    """Stop cleanly when the process that started this one is gone: its result would be lost."""
    while os.getppid() == parent:
        sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    end = monotonic() + _GRACE_S
    while monotonic() < end:
        sleep(_POLL_S)
    os._exit(75)
