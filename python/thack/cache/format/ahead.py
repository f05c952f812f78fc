"""Batches that a thread reads ahead of their use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from queue import Queue
from typing import TypeVar

T = TypeVar("T")


def read_ahead(
    targets: Callable[[Sequence[int]], T], batches: Iterable[Sequence[int]], depth: int = 2
) -> Generator[T, None, None]:
    """`targets` of each batch, read by a thread that is up to `depth` batches ahead. Closing it ends the thread."""
    queue: Queue[T | BaseException | None] = Queue(maxsize=depth)
    stop = threading.Event()

    def work() -> None:
        try:
            for batch in batches:
                if stop.is_set():
                    return
                queue.put(targets(batch))
            queue.put(None)
        except BaseException as error:  # raised again in the thread that reads the queue
            queue.put(error)

    thread = threading.Thread(target=work, name="thack-prefetch", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        while thread.is_alive():
            while not queue.empty():
                queue.get()
            thread.join(timeout=0.01)
