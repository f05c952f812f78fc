"""Progress across processes: a worker sends events through a queue, and one thread of the first process draws them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from thack.runtime.progress import Progress, Task

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

_EVERY_S = 0.2  # a training step takes a few milliseconds, faster than anyone can read
TaskKey = tuple[int, int]  # process id, number of the task within it


@dataclass(frozen=True, slots=True)
class Started:
    """A worker process runs."""

    pid: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A task begins."""

    key: TaskKey
    name: str
    total: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """A task moved on."""

    key: TaskKey
    amount: float
    fields: Mapping[str, object]
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A task is over."""

    key: TaskKey


@dataclass(frozen=True, slots=True)
class Note:
    """A line that stays."""

    text: str


Event = Started | Opened | Advanced | Closed | Note | None  # None: there is nothing more to draw
Events: TypeAlias = "Queue[Event]"  # not subscriptable at run time before Python 3.12


class Relay:
    """A `Progress` that another process draws."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._numbers = count()
        events.put(Started(os.getpid()))

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[_RelayedTask]:
        """Open a task; closes with the context."""
        key = (os.getpid(), next(self._numbers))
        self._events.put(Opened(key, name, total, unit))
        task = _RelayedTask(self._events, key)
        try:
            yield task
        finally:
            task.send()
            self._events.put(Closed(key))

    def note(self, message: str) -> None:
        """One line that stays on the screen."""
        self._events.put(Note(message))


class _RelayedTask:
    def __init__(self, events: Events, key: TaskKey) -> None:
        self._events, self._key = events, key
        self._amount, self._fields = 0.0, dict[str, object]()
        self._sent = monotonic()
        self._left_s: float | None = None

    def left(self, seconds: float) -> None:
        self._left_s = seconds

    def advance(self, amount: float = 1, **fields: object) -> None:
        self._amount += amount
        self._fields |= fields
        if monotonic() - self._sent >= _EVERY_S:
            self.send()

    def send(self) -> None:
        self._events.put(Advanced(self._key, self._amount, dict(self._fields), self._left_s))
        self._amount, self._sent = 0.0, monotonic()


@contextmanager
def drawn(events: Events, progress: Progress) -> Iterator[set[int]]:
    """Draw what workers send until the block ends; yields the ids of the worker processes, as they start."""
    pids: set[int] = set()
    thread = threading.Thread(target=_draw, args=(events, progress, pids), daemon=True)
    thread.start()
    try:
        yield pids
    finally:
        events.put(None)
        thread.join()


def _draw(events: Events, progress: Progress, pids: set[int]) -> None:
    with ExitStack() as left_open:
        tasks: dict[TaskKey, tuple[Task, ExitStack]] = {}
        while (event := events.get()) is not None:
            match event:
                case Started(pid):
                    pids.add(pid)
                case Note(text):
                    progress.note(text)
                case Opened(key, name, total, unit):
                    stack = left_open.enter_context(ExitStack())
                    tasks[key] = (stack.enter_context(progress.task(name, total, unit)), stack)
                case Advanced(key, amount, fields, left_s):
                    tasks[key][0].advance(amount, **fields)
                    if left_s is not None:
                        tasks[key][0].left(left_s)
                case Closed(key):
                    tasks.pop(key)[1].close()
