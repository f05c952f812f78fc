"""Signals and files ask a run to stop or to save; it answers between steps."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from thack.errors import Interrupted, Preempted
from thack.runtime import preemption
from thack.runtime.preemption import StopFlag


@pytest.fixture
def looks_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "_FILE_CHECK_S", 0.0)


def requested(stop: StopFlag) -> str | None:
    """`stop.requested` now: it changes between two looks."""
    return stop.requested


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_signals_set_the_flag_and_handlers_are_restored(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopFlag(tmp_path) as stop:
        assert requested(stop) is None and stop.urgency == 0
        os.kill(os.getpid(), number)
        assert requested(stop) == name
        error = stop.error("step 12 in runs/a")
    assert signal.getsignal(number) == before
    assert isinstance(error, Preempted)
    assert error.exit_code == 75
    assert error.details == ("kept: step 12 in runs/a",)
    assert error.hint == "run the same command again to resume"


def test_handlers_are_restored_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopFlag():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_first_ctrl_c_asks_and_the_second_interrupts() -> None:
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert requested(stop) == "SIGINT"
        error = stop.error("x")
        assert isinstance(error, Interrupted) and error.exit_code == 130 and error.message == "stopped by Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_after_a_preemption_is_the_first_one() -> None:
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert requested(stop) == "SIGINT"


@pytest.mark.usefixtures("looks_every_time")
def test_stop_and_save_files(tmp_path: Path) -> None:
    with StopFlag(tmp_path) as stop:
        assert not stop.save_requested()
        (tmp_path / "SAVE").touch()
        assert stop.save_requested()
        assert not stop.save_requested()
        assert requested(stop) is None
        (tmp_path / "STOP").touch()
        assert requested(stop) == "STOP file"
        assert "STOP file" in str(stop.error("x"))
    assert not (tmp_path / "STOP").exists(), "or the next start would stop at once"


def test_the_file_is_looked_for_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stat per step is not free on a network file system."""
    now = 100.0
    monkeypatch.setattr(preemption, "monotonic", lambda: now)
    stop = StopFlag(tmp_path)
    assert requested(stop) is None
    (tmp_path / "STOP").touch()
    now = 100.9
    assert requested(stop) is None
    now = 101.0
    assert requested(stop) == "STOP file"
    (tmp_path / "STOP").unlink()
    assert requested(stop) == "STOP file", "a request is not withdrawn"


def test_without_a_directory_no_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("STOP", "SAVE"):
        (tmp_path / name).touch()
    with StopFlag() as stop:
        assert requested(stop) is None and not stop.save_requested()
        stop.error("x")
    assert (tmp_path / "STOP").exists() and (tmp_path / "SAVE").exists()


@pytest.mark.usefixtures("looks_every_time")
def test_ranks_agree_on_the_most_urgent_reason(tmp_path: Path) -> None:
    """One rank got SIGTERM, another sees the STOP file, a third nothing: all give the same reason."""
    (tmp_path / "STOP").touch()
    flags = [StopFlag(), StopFlag(tmp_path), StopFlag()]
    flags[0]._receive(signal.SIGTERM, None)
    agreed = max(flag.urgency for flag in flags)
    assert all(flag.adopt(agreed) for flag in flags)
    assert [flag.requested for flag in flags] == ["SIGTERM"] * 3
    assert not StopFlag().adopt(0)


def test_a_less_urgent_reason_of_others_does_not_replace_the_own_one() -> None:
    stop = StopFlag()
    stop._receive(signal.SIGINT, None)
    assert stop.adopt(1) and requested(stop) == "SIGINT"


def test_outside_the_main_thread_only_files_and_other_ranks_count() -> None:
    seen: list[str | None] = []

    def work() -> None:
        with StopFlag() as stop:
            assert stop.adopt(3)
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["SIGTERM"]
