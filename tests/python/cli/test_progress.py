"""Progress: bars on a terminal, plain lines elsewhere, nothing for short tasks."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from thack.cli import progress as module
from thack.cli.progress import LineProgress, TerminalProgress, make_progress
from thack.cli.session import emit, session, shown_progress
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
    monkeypatch.setattr(
        module, "stderr", lambda: Console(file=screen, force_terminal=True, width=120, markup=False, highlight=False)
    )
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


@pytest.mark.parametrize("fields", [{}, {"loss": 1.23456, "golden": 1.2}])
def test_a_bar_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch, fields: dict[str, float]) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(module, "stderr", lambda: console)
    terminal = TerminalProgress()
    with terminal, terminal.task("distill offline", 12_345, "steps") as task:
        task.advance(1234, **fields)
        terminal._display.refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    lines = [part for line in plain.splitlines() for part in line.split("\r") if part.strip()]
    assert max(map(len, lines)) <= 80
    assert all("distill offline" in line for line in lines), "each is one line"
    assert "1,234/12,345 steps" in lines[-1]
    assert all(f"{name} {value:.4g}" in lines[-1] for name, value in fields.items())


def test_notes_are_translated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(module, "stderr", lambda: Console(file=screen, force_terminal=True, width=80))
    with TerminalProgress(str.upper) as terminal:
        terminal.note("kept")
    LineProgress(str.upper).note("kept")
    assert "KEPT" in screen.getvalue() and capsys.readouterr().err == "KEPT\n"


def test_a_task_without_a_total_counts_and_shows_no_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with LineProgress().task("read", None, "lines") as task:
        task.advance(5)
        clock[0] = 16.0
        task.advance(1_000)
    assert capsys.readouterr().err == "read: 1,005 lines · 0:16\n"


def test_a_short_bar_leaves_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(module, "stderr", lambda: Console(file=screen, force_terminal=True, width=80))
    terminal = TerminalProgress()
    with terminal, terminal.task("quick", 1):
        pass
    assert terminal._display.tasks == []


def test_what_does_not_fit_is_left_out_and_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(module, "stderr", lambda: console)
    terminal = TerminalProgress()
    with terminal, terminal.task("a run with a long name", 12_345, "step") as task:
        task.advance(1234, loss=1.2345, **{"tok/s": 12345, "lr": 0.001, "GB": 1.25})
        with terminal.task("evaluating 3 of 12", None):
            terminal._display.refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    lines = [part for line in plain.splitlines() for part in line.split("\r") if part.strip()]
    assert max(map(len, lines)) < 80
    assert any("loss 1.234 · tok/s 12345" in line and "lr" not in line for line in lines)
    assert any(line.startswith("evaluating 3 of 12") for line in lines)
    assert len(terminal._display.tasks) <= 1, "a phase leaves no trace"


def test_the_time_left_is_what_the_work_says(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress().task("distill", 48, "step") as task:
        clock[0] = 20.0
        task.left(300.0)
        task.advance(1)
    assert "distill: 1/48 step · 0:20 · 5:00 left" in capsys.readouterr().err


def test_a_phase_that_lasts_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with LineProgress().task("loading student", None):
        pass
    monkeypatch.setattr(module, "_SHORT_S", 0.01)
    with LineProgress().task("loading teacher", None):
        time.sleep(0.2)
    assert capsys.readouterr().err == "loading teacher …\n"


def test_results_are_printed_below_the_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(module, "stderr", lambda: Console(file=screen, force_terminal=True, width=80))
    monkeypatch.setattr(module, "_SHORT_S", 0.0)
    session.reset()
    with shown_progress() as progress:
        with progress.task("tm", 16, "step") as task:
            task.advance(16)
        emit({}, lambda: screen.write("run: runs/tm"))
    assert "\r" not in screen.getvalue().partition("run: runs/tm")[2], "nothing is drawn after the result"
    assert screen.getvalue().partition("run: runs/tm")[0].endswith("\x1b[?25h")


@pytest.mark.parametrize(("width", "shown"), [(100, "stopping; Ctrl-C again: at once"), (60, "stopping")])
def test_a_step_that_ends_first_says_that_it_is_the_last(
    width: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(module, "stderr", lambda: Console(file=screen, force_terminal=True, width=width))
    terminal = TerminalProgress()
    with terminal, terminal.task("a run", 280, "step") as task:
        task.advance(1, loss=1.0)
        terminal._display.refresh()
        assert "stopping" not in screen.getvalue()
        monkeypatch.setattr(module, "is_asked_to_stop", lambda: True)
        terminal._display.refresh()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).rstrip().splitlines()[-1]
    assert shown in last and "loss" not in last and len(last.rstrip()) < width
