"""Progress across processes: a worker's events go through a queue and are drawn where people look."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from time import monotonic
from typing import Any

from thack.runtime.progress import Progress, Task

_EVERY_S = 0.2  # a training step takes a few milliseconds; eyes are slower


class Relay:
    """A `Progress` that another process draws."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._numbers = count()
        queue.put(("hello", os.getpid()))

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[_RelayedTask]:
        key = (os.getpid(), next(self._numbers))
        self._queue.put(("open", key, name, total, unit))
        task = _RelayedTask(self._queue, key)
        try:
            yield task
        finally:
            task.send()
            self._queue.put(("close", key))

    def note(self, message: str) -> None:
        self._queue.put(("note", message))


class _RelayedTask:
    def __init__(self, queue: Any, key: object) -> None:
        self._queue, self._key = queue, key
        self._amount, self._fields = 0.0, dict[str, object]()
        self._sent = monotonic()

    def advance(self, amount: float = 1, **fields: object) -> None:
        self._amount += amount
        self._fields |= fields
        if monotonic() - self._sent >= _EVERY_S:
            self.send()

    def send(self) -> None:
        self._queue.put(("advance", self._key, self._amount, dict(self._fields)))
        self._amount, self._sent = 0.0, monotonic()


@contextmanager
def drawn(queue: Any, progress: Progress) -> Iterator[set[int]]:
    """Draw what workers send until the block ends; yields the ids of the processes that said hello."""
    pids: set[int] = set()
    thread = threading.Thread(target=_draw, args=(queue, progress, pids), daemon=True)
    thread.start()
    try:
        yield pids
    finally:
        queue.put(("end",))
        thread.join()


def _draw(queue: Any, progress: Progress, pids: set[int]) -> None:
    with ExitStack() as left_open:
        tasks: dict[object, tuple[Task, ExitStack]] = {}
        while True:
            kind, *rest = queue.get()
            if kind == "end":
                return
            if kind == "hello":
                pids.add(rest[0])
            elif kind == "note":
                progress.note(rest[0])
            elif kind == "open":
                key, name, total, unit = rest
                stack = left_open.enter_context(ExitStack())
                tasks[key] = (stack.enter_context(progress.task(name, total, unit)), stack)
            elif kind == "advance":
                key, amount, fields = rest
                tasks[key][0].advance(amount, **fields)
            elif kind == "close":
                tasks.pop(rest[0])[1].close()
