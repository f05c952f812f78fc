"""Progress: bars on a terminal, plain lines elsewhere, nothing for short tasks."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from thack.cli import progress as module
from thack.cli.progress import LineProgress, TerminalProgress, make_progress
from thack.runtime.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def test_pipes_get_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stderr", lambda: Console(file=io.StringIO()))
    assert isinstance(make_progress(), LineProgress)
    monkeypatch.setattr(module, "stderr", lambda: Console(file=io.StringIO(), force_terminal=True))
    assert isinstance(make_progress(), TerminalProgress)


def test_lines_come_every_few_seconds_and_at_the_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    progress: Progress = LineProgress()
    with progress.task("oracle", 1400, "steps") as task:
        task.advance(10, loss=3.14159)
        clock[0] = 20.0
        task.advance(690, loss=2.5)
        clock[0] = 40.0
        task.advance(700)
    assert capsys.readouterr().err.splitlines() == [
        "oracle: 700/1,400 steps · 0:20 · 0:20 left · loss 2.5",
        "oracle: 1,400/1,400 steps · 0:40 · loss 2.5",
    ]


def test_short_tasks_leave_no_line_and_notes_stay(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress() as progress, progress.task("quick", None) as task:
        task.advance()
        progress.note("a note [with brackets]")
    assert capsys.readouterr().err == "a note [with brackets]\n"


def test_terminal_bars_show_amount_fields_and_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(module, "stderr", lambda: Console(file=screen, force_terminal=True, width=120))
    monkeypatch.setattr(module, "_SHORT_S", 0.0)
    terminal = TerminalProgress()
    progress: Progress = terminal
    with terminal, progress.task("teacher", 4, "steps") as task:
        for _ in range(4):
            task.advance(loss=1.25)
        progress.note("kept [all]")
    assert "teacher" in screen.getvalue()
    assert "4/4 steps" in screen.getvalue()
    assert "loss 1.25" in screen.getvalue()
    assert "kept [all]" in screen.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(None, "-:--"), (0.4, "0:00"), (61, "1:01"), (3725, "1:02:05")])
def test_clock(seconds: float | None, text: str) -> None:
    assert module._clock(seconds) == text
