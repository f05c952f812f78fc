"""Stages side by side: one process per core, each with one thread, each stage as soon as its upstream is complete.

A small model's operations are too short to share between threads: two processes with one thread each complete two
stages in little more time than one takes. A stage that has nothing to run beside it runs here and gets all threads; on
a GPU, or with one core, so does every stage.

A stage that fails takes its downstream with it, and nothing else.

Suspects. A worker may die: out of memory, or killed. If its stage was alone, the stage has failed. If others ran
beside it, they may have taken the memory: the stage becomes a suspect. While there are suspects no other stage starts,
and each suspect runs once more, alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import wait
from types import TracebackType

from thack.errors import Interrupted, Preempted, ThackError
from thack.experiments.stages import Stage, with_upstream
from thack.experiments.worker import Worker, WorkerDiedError, failure
from thack.runtime.preemption import StopFlag
from thack.runtime.progress import Progress
from thack.runtime.threads import threads

_POLL_S = 0.5
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
        Preempted, Interrupted: a signal was received, here or by a worker. Every worker has saved what it had.
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
        self._idle: list[Worker] = []
        self._running: dict[Worker, Stage] = {}
        self._beside: set[str] = set()  # keys of stages that had another one beside them
        self._suspects: list[Stage] = []
        self._failures: dict[str, ThackError] = {}  # since the last `wait`

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._running:  # none, but where an error ends the block: else this would wait for hours
            worker.ask_to_stop()
        for worker in (*self._idle, *self._running):
            worker.close()

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
            self._give(stage)
        return started

    def wait(self) -> Failures:
        """Wait until a stage in flight ends, if there is any; the failures since the last call, by key."""
        if self._suspects and not self._running:
            self._give(self._suspects.pop(0))
        if self._running:
            self._wait_for_one()
        found, self._failures = self._failures, {}
        return found

    def _run_here(self, stage: Stage) -> None:
        try:
            stage.run(self._progress)
        except (Preempted, Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            self._failures[stage.key] = failure(error)

    def _give(self, stage: Stage) -> None:
        worker = self._idle.pop() if self._idle else Worker(self._progress)
        if not worker.is_alive:  # killed while it was idle
            worker.close()
            return self._give(stage)
        self._running[worker] = stage
        worker.give(stage)
        self._beside.discard(stage.key)
        if len(self._running) > 1:
            self._beside |= {one.key for one in self._running.values()}

    def _wait_for_one(self) -> None:
        before = len(self._running)
        with StopFlag() as stop:
            while len(self._running) == before and not stop.requested:
                self._read()
            if stop.requested:
                self._interrupt(stop)

    def _interrupt(self, stop: StopFlag) -> None:
        for worker in self._running:
            worker.ask_to_stop()
        while self._running:
            self._read(raises=False)
        raise stop.error("every complete stage, and a checkpoint of those that were running")

    def _read(self, *, raises: bool = True) -> None:
        """Read one message of each worker that has sent any; stages that ended leave `_running`."""
        wait([handle for worker in self._running for handle in worker.handles], _POLL_S)
        for worker in list(self._running):
            try:
                done = worker.take()
            except WorkerDiedError:
                worker.close()
                self._bury(self._running.pop(worker))
                continue
            if done is not None:
                stage = self._running.pop(worker)
                self._idle.append(worker)
                if raises and isinstance(done.error, Preempted | Interrupted):
                    raise done.error
                if done.error is not None:
                    self._failures[stage.key] = done.error

    def _bury(self, stage: Stage) -> None:
        """One that was alone when its worker died is the cause; one that was not runs again, alone."""
        if stage.key in self._beside:
            self._suspects.append(stage)
            return
        hint = "run the same command again to resume"
        self._failures[stage.key] = ThackError("its process died (out of memory, or killed)", hint=hint)
