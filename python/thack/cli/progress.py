"""Progress: bars of rich on a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from time import monotonic
from types import TracebackType

from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichDisplay
from rich.table import Column
from rich.text import Text

from thack.cli.console import stderr
from thack.runtime.preemption import is_asked_to_stop
from thack.runtime.streams import say

_SHORT_S = 1.0  # shorter tasks leave no trace
_STOPPING = ("stopping; Ctrl-C again: at once", "stopping")  # while a step or an evaluation ends
_LINE_EVERY_S = 15.0  # between two plain lines of one task


class TerminalProgress:
    """Implements `runtime.progress.Progress`: bars with time left and fields; finished ones stay."""

    def __init__(self, translate: Callable[[str], str] = str) -> None:
        self._translate = translate
        console = stderr()
        self._bar_width = 28 if console.width >= 100 else 8
        self._display = RichDisplay(
            TextColumn("{task.description}", markup=False, table_column=_one_line()),
            BarColumn(bar_width=self._bar_width, table_column=Column(width=self._bar_width, no_wrap=True)),
            _Amount(table_column=_one_line()),
            _Time(table_column=_one_line()),
            _Fields(self._room, table_column=_one_line()),
            console=console,
            refresh_per_second=4,
        )

    def __enter__(self) -> TerminalProgress:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the screen to results; what is drawn stays."""
        self._display.stop()

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[_Bar]:
        identity = self._display.add_task(name, total=total, unit=unit, shown={}, ends=None)
        try:
            yield _Bar(self._display, identity)
        finally:
            task = self._display.tasks[self._display.task_ids.index(identity)]
            if _is_phase(total, unit) or (task.elapsed or 0.0) < _SHORT_S:
                self._display.remove_task(identity)
            else:
                self._display.stop_task(identity)

    def note(self, message: str) -> None:
        self._display.console.print(self._translate(message))

    def _room(self) -> int:
        """Columns that names, bars, amounts and times leave: a line that wraps would be drawn twice."""
        tasks = self._display.tasks
        names = max((len(task.description) for task in tasks), default=0)
        amounts = max((len(_amount_of(task)) for task in tasks), default=0)
        times = max((len(_time_of(task)) for task in tasks), default=0)
        gaps = 4 + 1  # between columns, and one at the end
        return self._display.console.width - names - self._bar_width - amounts - times - gaps


class _Bar:
    def __init__(self, display: RichDisplay, identity: TaskID) -> None:
        self._display, self._identity = display, identity
        self._shown: dict[str, object] = {}

    def advance(self, amount: float = 1, **fields: object) -> None:
        self._shown |= fields
        self._display.update(self._identity, advance=amount, shown=self._shown)

    def left(self, seconds: float) -> None:
        self._display.update(self._identity, ends=monotonic() + seconds)


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_amount_of(task), style="cyan")


class _Time(ProgressColumn):
    """Time passed, and behind `<` the time left."""

    def render(self, task: Task) -> Text:
        return Text(_time_of(task), style="dim")


class _Fields(ProgressColumn):
    """As many fields as the line has room for, the first ones first."""

    def __init__(self, room: Callable[[], int], table_column: Column) -> None:
        super().__init__(table_column)
        self._room = room

    def render(self, task: Task) -> Text:
        fields, room = dict(task.fields["shown"]), self._room()
        if is_asked_to_stop() and task.total and not task.finished:
            return Text(next((text for text in _STOPPING if len(text) <= room), ""), style="yellow")
        while fields and len(_fields(fields)) > room:
            fields.popitem()
        return Text(_fields(fields))


def _one_line() -> Column:
    return Column(no_wrap=True, overflow="ellipsis")


def _is_phase(total: float | None, unit: str) -> bool:
    return total is None and not unit


def _amount_of(task: Task) -> str:
    unit = str(task.fields["unit"])
    return "" if _is_phase(task.total, unit) else _amount(task.completed, task.total, unit)


def _time_of(task: Task) -> str:
    passed = _clock(task.finished_time if task.finished else task.elapsed)
    if not task.total or task.finished:
        return passed
    ends = task.fields["ends"]
    left = task.time_remaining if ends is None else max(0.0, ends - monotonic())
    return passed if left is None else f"{passed} < {_clock(left)}"


class LineProgress:
    """The same without control codes: a line for a phase, and for a task every few seconds and at its end."""

    def __init__(self, translate: Callable[[str], str] = str) -> None:
        self._translate = translate

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def close(self) -> None:
        """Nothing: lines are no obstacle to results."""

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[_Lines]:
        lines = _Lines(name, total, unit)
        if _is_phase(total, unit):
            with _told_late(name):
                yield lines
            return
        yield lines
        lines.finish()

    def note(self, message: str) -> None:
        say(self._translate(message))


@contextmanager
def _told_late(name: str) -> Iterator[None]:
    """A line about a phase as soon as it is not short."""
    timer = Timer(_SHORT_S, say, [f"{name} …"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Lines:
    def __init__(self, name: str, total: float | None, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done, self._shown = 0.0, dict[str, object]()
        self._started = self._printed = monotonic()
        self._reported = -1.0
        self._ends: float | None = None

    def left(self, seconds: float) -> None:
        self._ends = monotonic() + seconds

    def advance(self, amount: float = 1, **fields: object) -> None:
        self._done += amount
        self._shown |= fields
        if monotonic() - self._printed >= _LINE_EVERY_S:
            self._print()

    def finish(self) -> None:
        if monotonic() - self._started >= _SHORT_S and self._done != self._reported:
            self._print()

    def _print(self) -> None:
        self._printed, self._reported = monotonic(), self._done
        passed = self._printed - self._started
        parts = [_amount(self._done, self._total, self._unit), _clock(passed)]
        if self._total and 0 < self._done < self._total:
            usual = passed * (self._total / self._done - 1)
            parts.append(f"{_clock(usual if self._ends is None else max(0.0, self._ends - self._printed))} left")
        parts.append(_fields(self._shown))
        say(f"{self._name}: " + " · ".join(part for part in parts if part))


def make_progress(translate: Callable[[str], str] = str) -> TerminalProgress | LineProgress:
    """Bars on a terminal, lines into files and pipes; notes pass through `translate`."""
    console = stderr()
    is_screen = console.is_terminal and not console.is_dumb_terminal
    return TerminalProgress(translate) if is_screen else LineProgress(translate)


def _amount(done: float, total: float | None, unit: str) -> str:
    text = f"{done:,.0f}" if total is None else f"{done:,.0f}/{total:,.0f}"
    return f"{text} {unit}".strip()


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _fields(fields: dict[str, object]) -> str:
    return " · ".join(f"{name} {_value(value)}" for name, value in fields.items())


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
