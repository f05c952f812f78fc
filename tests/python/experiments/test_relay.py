"""Progress across processes: events arrive in order, and what a dead worker left open is closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import pytest

from thack.experiments import relay
from thack.experiments.relay import Advanced, Closed, Note, Opened, Relay, Started, drawn


class Drawn:
    """A progress that keeps what it is asked to draw."""

    def __init__(self) -> None:
        self.events: list[object] = []

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[Drawn]:
        self.events.append(("open", name, total, unit))
        try:
            yield self
        finally:
            self.events.append(("close", name))

    def advance(self, amount: float = 1, **fields: object) -> None:
        self.events.append(("advance", amount, fields))

    def left(self, seconds: float) -> None:
        pass

    def note(self, message: str) -> None:
        self.events.append(("note", message))


def draw(*events: object) -> tuple[list[object], set[int]]:
    queue: Any = Queue()
    progress = Drawn()
    with drawn(queue, progress) as pids:
        for event in events:
            queue.put(event)
    return progress.events, pids


def sent(queue: Queue[object]) -> list[object]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


def test_a_task_is_opened_advanced_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "monotonic", iter([0.0, 1.0, 1.0, 1.05, 2.0]).__next__)
    queue: Any = Queue()
    with Relay(queue).task("training", 10, "steps") as task:
        task.advance(1, loss=3.0)  # a second after the last event: sent at once
        task.advance(2, loss=2.0)  # too soon: kept for the end
        task.left(60.0)
    pid = os.getpid()
    assert sent(queue) == [
        Started(pid),
        Opened((pid, 0), "training", 10, "steps"),
        Advanced((pid, 0), 1.0, {"loss": 3.0}),
        Advanced((pid, 0), 2.0, {"loss": 2.0}, 60.0),
        Closed((pid, 0)),
    ]


def test_a_task_that_fails_is_closed_and_tasks_are_numbered() -> None:
    queue: Any = Queue()
    sender = Relay(queue)
    with pytest.raises(ZeroDivisionError), sender.task("a", None):
        raise ZeroDivisionError
    with sender.task("b", None):
        sender.note("hello")
    events = sent(queue)
    assert [event.key[1] for event in events if isinstance(event, Opened | Closed)] == [0, 0, 1, 1]
    assert Note("hello") in events


def test_events_of_two_workers_are_drawn() -> None:
    one, two = (1, 0), (2, 0)
    events, pids = draw(
        Started(1),
        Started(2),
        Opened(one, "a", 3, "x"),
        Opened(two, "b", None, ""),
        Advanced(one, 2.0, {"loss": 1}),
        Closed(two),
        Note("done"),
        Closed(one),
    )
    assert events == [
        ("open", "a", 3, "x"),
        ("open", "b", None, ""),
        ("advance", 2.0, {"loss": 1}),
        ("close", "b"),
        ("note", "done"),
        ("close", "a"),
    ]
    assert pids == {1, 2}


def test_what_a_dead_worker_left_open_is_closed_at_the_end() -> None:
    events, _ = draw(Opened((1, 0), "a", 3, "x"))
    assert events == [("open", "a", 3, "x"), ("close", "a")]
