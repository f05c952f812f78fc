"""Progress across processes: events are sent in order, and what a dead worker left open is closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from thack.experiments import relay
from thack.experiments.relay import Advanced, Closed, Drawing, Event, Note, Opened, Relay


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


def test_a_task_is_opened_advanced_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "monotonic", iter([0.0, 1.0, 1.0, 1.05, 2.0]).__next__)
    sent: list[Event] = []
    with Relay(sent.append).task("training", 10, "steps") as task:
        task.advance(1, loss=3.0)  # a second after the last event: sent at once
        task.advance(2, loss=2.0)  # too soon: kept for the end
        task.left(60.0)
    assert sent == [
        Opened(0, "training", 10, "steps"),
        Advanced(0, 1.0, {"loss": 3.0}),
        Advanced(0, 2.0, {"loss": 2.0}, 60.0),
        Closed(0),
    ]


def test_a_task_that_fails_is_closed_and_tasks_are_numbered() -> None:
    sent: list[Event] = []
    sender = Relay(sent.append)
    with pytest.raises(ZeroDivisionError), sender.task("a", None):
        raise ZeroDivisionError
    with sender.task("b", None):
        sender.note("hello")
    assert [event.number for event in sent if isinstance(event, Opened | Closed)] == [0, 0, 1, 1]
    assert Note("hello") in sent


def test_events_of_two_workers_are_drawn() -> None:
    progress = Drawn()
    one, two = Drawing(progress), Drawing(progress)
    one.draw(Opened(0, "a", 3, "x"))
    two.draw(Opened(0, "b", None, ""))
    one.draw(Advanced(0, 2.0, {"loss": 1}))
    two.draw(Closed(0))
    one.draw(Note("done"))
    one.draw(Closed(0))
    assert progress.events == [
        ("open", "a", 3, "x"),
        ("open", "b", None, ""),
        ("advance", 2.0, {"loss": 1}),
        ("close", "b"),
        ("note", "done"),
        ("close", "a"),
    ]


def test_what_a_dead_worker_left_open_is_closed() -> None:
    progress = Drawn()
    drawing = Drawing(progress)
    drawing.draw(Opened(0, "a", 3, "x"))
    drawing.draw(Opened(1, "b", 3, "x"))
    drawing.close()
    assert progress.events[2:] == [("close", "b"), ("close", "a")]
