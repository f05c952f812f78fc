"""Progress: bars of rich on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType

from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichDisplay
from rich.table import Column
from rich.text import Text

from thack.cli.console import escaped, stderr

_SHORT_S = 1.0  # shorter tasks leave no trace
_LINE_EVERY_S = 15.0  # between two plain lines of one task


class TerminalProgress:
    """Implements `runtime.progress.Progress`: bars with time left and fields; finished ones stay."""

    def __init__(self, translate: Callable[[str], str] = str) -> None:
        self._translate = translate
        console = stderr()
        one_line = Column(no_wrap=True, overflow="ellipsis")
        self._display = RichDisplay(
            TextColumn("{task.description}", table_column=one_line),
            BarColumn(bar_width=28 if console.width >= 100 else 8),
            _Amount(),
            _Time(),
            _Fields(table_column=one_line.copy()),
            console=console,
            refresh_per_second=4,
        )

    def __enter__(self) -> TerminalProgress:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[_Bar]:
        identity = self._display.add_task(name, total=total, unit=unit, shown={}, started=monotonic())
        try:
            yield _Bar(self._display, identity)
        finally:
            task = self._display.tasks[self._display.task_ids.index(identity)]
            if (task.elapsed or 0.0) < _SHORT_S:
                self._display.remove_task(identity)
            else:
                self._display.stop_task(identity)

    def note(self, message: str) -> None:
        self._display.console.print(self._translate(message), markup=False, highlight=False)


class _Bar:
    def __init__(self, display: RichDisplay, identity: TaskID) -> None:
        self._display, self._identity = display, identity
        self._shown: dict[str, object] = {}

    def advance(self, amount: float = 1, **fields: object) -> None:
        self._shown |= fields
        self._display.update(self._identity, advance=amount, shown=self._shown)


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_amount(task.completed, task.total, str(task.fields["unit"])), style="cyan")


class _Time(ProgressColumn):
    """Time passed, and behind `<` the time left."""

    def render(self, task: Task) -> Text:
        passed = _clock(task.finished_time if task.finished else task.elapsed)
        left = task.time_remaining if task.total and not task.finished else None
        return Text(passed if left is None else f"{passed} < {_clock(left)}", style="dim")


class _Fields(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_fields(task.fields["shown"]))


class LineProgress:
    """The same without control codes: a line at the start, every few seconds, and at the end of a task."""

    def __init__(self, translate: Callable[[str], str] = str) -> None:
        self._translate = translate

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[_Lines]:
        lines = _Lines(name, total, unit)
        yield lines
        lines.finish()

    def note(self, message: str) -> None:
        _line(self._translate(message))


class _Lines:
    def __init__(self, name: str, total: float | None, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done, self._shown = 0.0, dict[str, object]()
        self._started = self._printed = monotonic()
        self._reported = -1.0

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
            parts.append(f"{_clock(passed * (self._total / self._done - 1))} left")
        parts.append(_fields(self._shown))
        _line(f"{self._name}: " + " · ".join(part for part in parts if part))


def make_progress(translate: Callable[[str], str] = str) -> TerminalProgress | LineProgress:
    """Bars on a terminal, lines into files and pipes; notes pass through `translate`."""
    console = stderr()
    is_screen = console.is_terminal and not console.is_dumb_terminal
    return TerminalProgress(translate) if is_screen else LineProgress(translate)


def _line(text: str) -> None:
    sys.stderr.write(escaped(text) + "\n")
    sys.stderr.flush()


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
