"""Progress across processes: a worker sends events, and the first process draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from time import monotonic

from thack.runtime.progress import Progress, Task

_EVERY_S = 0.2  # a training step takes a few milliseconds, faster than anyone can read


@dataclass(frozen=True, slots=True)
class Opened:
    """A task begins."""

    number: int  # of the task, within its worker
    name: str
    total: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """A task moved on."""

    number: int
    amount: float
    fields: Mapping[str, object]
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A task is over."""

    number: int


@dataclass(frozen=True, slots=True)
class Note:
    """A line that stays."""

    text: str


Event = Opened | Advanced | Closed | Note
Send = Callable[[Event], None]


class Relay:
    """A `Progress` that another process draws; `send` may be called from any thread."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._numbers = count()

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[_RelayedTask]:
        """Open a task; closes with the context."""
        number = next(self._numbers)
        self._send(Opened(number, name, total, unit))
        task = _RelayedTask(self._send, number)
        try:
            yield task
        finally:
            task.send()
            self._send(Closed(number))

    def note(self, message: str) -> None:
        """One line that stays on the screen."""
        self._send(Note(message))


class _RelayedTask:
    def __init__(self, send: Send, number: int) -> None:
        self._send, self._number = send, number
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
        self._send(Advanced(self._number, self._amount, dict(self._fields), self._left_s))
        self._amount, self._sent = 0.0, monotonic()


class Drawing:
    """What one worker shows, on the screen of this process."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[int, tuple[Task, ExitStack]] = {}

    def draw(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Note(text):
                self._progress.note(text)
            case Opened(number, name, total, unit):
                stack = ExitStack()
                self._tasks[number] = (stack.enter_context(self._progress.task(name, total, unit)), stack)
            case Advanced(number, amount, fields, left_s):
                task, _ = self._tasks[number]
                task.advance(amount, **fields)
                if left_s is not None:
                    task.left(left_s)
            case Closed(number):
                self._tasks.pop(number)[1].close()

    def close(self) -> None:
        """Close what the worker left open."""
        while self._tasks:
            self._tasks.popitem()[1][1].close()
