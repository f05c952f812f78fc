"""One process at a time works on an output, whatever happened to those before it, and whatever the clocks say."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from thack.errors import Preempted, ThackError
from thack.files import claim_output
from thack.runtime import lock as locks
from thack.runtime import lock_owner, preemption
from thack.runtime.lock import lock_file, locked
from thack.runtime.progress import Task

ELSEWHERE = {
    "schema": 1,
    "host": "elsewhere",
    "pid": 1,
    "boot": "other",
    "start": "",
    "nonce": "n",
    "since": "2026-01-01 00:00:00 UTC",
    "command": "thack distill --out runs/a",
}


class Notes(list[str]):
    """A progress that keeps its notes."""

    def task(self, name: str, total: float | None, unit: str = "") -> AbstractContextManager[Task]:
        raise AssertionError

    def note(self, message: str) -> None:
        self.append(message)


class Clock:
    """The waiter's own clock; every sleep takes its time, and then something may happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happens: Callable[[float], object] = lambda now: None) -> None:
        self.now = 0.0
        self._happens = happens
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self._happens(self.now)


def write(tmp_path: Path, content: object) -> Path:
    lock = tmp_path / ".out.lock"
    lock.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return lock


def age(path: Path, seconds: float) -> None:
    before = time.time() - seconds
    os.utime(path, (before, before))


def test_two_that_want_the_same_directory_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with locked(tmp_path / "out"):
            inside.append(number)
            time.sleep(0.05)
            inside.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside in ([0, 0, 1, 1], [1, 1, 0, 0])
    assert not list(tmp_path.glob(".*"))


def test_who_holds_it_enters_again_and_keeps_it_until_the_end(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        with locked(tmp_path / "nowhere" / ".." / "out"):
            pass
        assert (tmp_path / ".out.lock").exists()
    assert not (tmp_path / ".out.lock").exists()


def test_other_parts_of_an_output_are_free(tmp_path: Path) -> None:
    """Tasks of an array share a cache."""
    with locked(tmp_path / "out", part="rank-00000"):
        thread = threading.Thread(target=lambda: locked(tmp_path / "out", part="rank-00001").__enter__())
        thread.start()
        thread.join(5)
        assert not thread.is_alive()


def test_the_one_who_waits_says_who_holds_it_and_may_lose_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, notes = write(tmp_path, ELSEWHERE), Notes()
    clock = Clock(monkeypatch, lambda now: age(lock, -now) if now % 20 == 0 else None)
    with pytest.raises(ThackError, match="is in use") as caught, locked(tmp_path / "out", notes, patience_s=10):
        pass
    assert 30 <= clock.now <= 32, "ten seconds after the first heartbeat"
    who = "process 1 on elsewhere, since 2026-01-01 00:00:00 UTC: thack distill --out runs/a"
    assert notes == [f"waiting for {tmp_path / 'out'}, in use by {who}"]
    assert caught.value.details == (f"by {who}",)


def test_who_has_little_patience_still_takes_the_lock_of_a_machine_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ELSEWHERE)
    Clock(monkeypatch)
    with locked(tmp_path / "out", patience_s=10, stale_s=300):
        pass


def test_a_lock_of_another_machine_that_is_old_is_taken_after_three_heartbeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(write(tmp_path, ELSEWHERE), 1000)
    clock = Clock(monkeypatch)
    with locked(tmp_path / "out", heartbeat_s=20, stale_s=300):
        assert json.loads((tmp_path / ".out.lock").read_text())["pid"] == os.getpid()
    assert 60 <= clock.now < 63
    assert not list(tmp_path.iterdir())


def test_a_lock_from_the_future_is_taken_once_it_stood_still_for_long_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the node that died was an hour ahead."""
    age(write(tmp_path, ELSEWHERE), -3600)
    clock = Clock(monkeypatch)
    with locked(tmp_path / "out", stale_s=300):
        pass
    assert 300 < clock.now < 303


@pytest.mark.parametrize("skew_s", [-7200, -400, 400, 7200])
def test_a_lock_that_lives_is_not_taken_whatever_its_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    lock = write(tmp_path, ELSEWHERE)
    age(lock, skew_s)

    def beat(now: float) -> None:
        if now % 20 == 0:
            age(lock, skew_s - now)

    Clock(monkeypatch, beat)
    with pytest.raises(ThackError, match="is in use"), locked(tmp_path / "out", patience_s=700):
        pass
    assert json.loads(lock.read_text()) == ELSEWHERE


ODD = {
    "empty": b"",
    "binary": bytes(range(256)) * 40,
    "a list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "digits": b'{"pid": ' + b"9" * 5000 + b"}",
    "pid text": {**ELSEWHERE, "pid": "1", "host": socket.gethostname(), "boot": lock_owner.boot()},
    "pid 0": {**ELSEWHERE, "pid": 0, "host": socket.gethostname(), "boot": lock_owner.boot()},
    "pid -1": {**ELSEWHERE, "pid": -1, "host": socket.gethostname(), "boot": lock_owner.boot()},
    "huge pid": {**ELSEWHERE, "pid": 10**30, "host": socket.gethostname(), "boot": lock_owner.boot()},
    "no pid": {"schema": 1, "host": socket.gethostname(), "boot": lock_owner.boot()},
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_odd_content_counts_as_a_lock_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    write(tmp_path, content)
    clock, notes = Clock(monkeypatch), Notes()
    with locked(tmp_path / "out", notes):
        pass
    assert 300 < clock.now < 303
    assert notes == [f"waiting for {tmp_path / 'out'}, in use by a process that left no name"]


def test_a_directory_in_the_place_of_the_lock_is_no_lock_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".out.lock").mkdir()
    Clock(monkeypatch)
    with locked(tmp_path / "out"):
        assert (tmp_path / ".out.lock").is_file()


def test_a_dead_process_of_this_machine_is_noticed_at_once(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with locked(tmp_path / "out"):
            os._exit(0)  # without releasing it
    started = time.monotonic()
    while not (tmp_path / ".out.lock").exists() or lock_owner.start_of(pid) != "ended":
        assert time.monotonic() - started < 30
        time.sleep(0.01)
    with locked(tmp_path / "out"):  # it is a zombie still
        pass
    os.waitpid(pid, 0)
    assert time.monotonic() - started < 10


def test_who_waits_for_a_suspended_process_ends_with_its_name_and_takes_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from thack.runtime.lock import locked\n"
        "with locked(Path(sys.argv[1]), heartbeat_s=0.05):\n    print('holds it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"holds it\n"
        with pytest.raises(ThackError, match="is in use") as busy, locked(tmp_path / "out", patience_s=1, stale_s=0.5):
            pass
        owner.send_signal(signal.SIGSTOP)
        with pytest.raises(ThackError, match="suspended or hangs") as hung, locked(tmp_path / "out", stale_s=0.5):
            pass
        owner.send_signal(signal.SIGCONT)
        owner.communicate()
    assert not list(tmp_path.iterdir())
    for caught in (busy, hung):
        assert caught.value.details[0].startswith(f"by process {owner.pid} on ")
    assert "kill -CONT" in str(hung.value.hint)


def test_another_process_with_the_id_of_a_dead_one_is_not_its_owner(tmp_path: Path) -> None:
    own = json.loads(lock_owner.own_name())
    write(tmp_path, {**own, "start": "12"})
    started = time.monotonic()
    with locked(tmp_path / "out"):
        pass
    assert time.monotonic() - started < 10


def test_an_older_lock_of_this_very_process_is_respected(tmp_path: Path) -> None:
    write(tmp_path, json.loads(lock_owner.own_name()))
    with pytest.raises(ThackError, match="is in use"), locked(tmp_path / "out", patience_s=0):
        pass


def test_the_heartbeat_keeps_a_lock_fresh(tmp_path: Path) -> None:
    lock = tmp_path / ".out.lock"
    with locked(tmp_path / "out", heartbeat_s=0.01):
        age(lock, 1000.0)
        deadline = time.monotonic() + 10
        while time.time() - lock.stat().st_mtime > 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - lock.stat().st_mtime < 100


def test_an_owner_that_lost_its_lock_stops_and_leaves_the_next_ones_alone(tmp_path: Path) -> None:
    lock = tmp_path / ".out.lock"
    with (
        pytest.raises(Preempted, match=r"stopped: .*out was taken over by process 1 on elsewhere"),
        preemption.interruptible(),
        locked(tmp_path / "out", heartbeat_s=0.01),
        preemption.StopFlag(),
    ):
        lock.unlink()
        write(tmp_path, ELSEWHERE)
        time.sleep(10)
    assert json.loads(lock.read_text()) == ELSEWHERE
    assert not preemption.is_withdrawn()


def test_only_one_removes_an_abandoned_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is about to: what it leaves is looked at again. One that died while it did is taken over too."""
    lock = write(tmp_path, b"")
    watch = locks._Watch(300.0, 60.0)
    clock = Clock(monkeypatch)
    watch.is_abandoned(lock)
    clock.now = 301.0
    assert watch.is_abandoned(lock)
    taken = tmp_path / ".out.lock.taken"
    taken.write_text(json.dumps(ELSEWHERE))
    clock._happens = lambda now: write(tmp_path, ELSEWHERE) if now > 310 else None
    locks._remove_abandoned(lock, watch)
    assert lock.exists() and taken.exists(), "the lock is another one now"
    watch.is_abandoned(lock)
    clock._happens = lambda now: None
    locks._remove_abandoned(lock, watch)
    assert not lock.exists() and not taken.exists(), "the one before has died"


def test_a_signal_ends_the_wait(tmp_path: Path) -> None:
    write(tmp_path, ELSEWHERE)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Preempted, match="stopped by SIGTERM"), locked(tmp_path / "out"):
        pass


@pytest.mark.parametrize("moment", ["_created", "_release"])
def test_a_signal_at_any_moment_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    function = getattr(locks, moment)

    def interrupted(*arguments: object) -> object:
        before = function(*arguments) if moment == "_created" else None
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        return before if moment == "_created" else function(*arguments)

    monkeypatch.setattr(locks, moment, interrupted)
    with suppress(Preempted), preemption.interruptible(), locked(tmp_path / "out"):
        assert moment == "_release", "a signal while the lock is written ends the wait"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_nameless_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", full)
        with pytest.raises(ThackError, match="no space left"), locked(tmp_path / "out"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_directory_whose_surroundings_cannot_be_written_holds_its_own_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume that is mounted into a container, say."""
    out = tmp_path / "out"
    out.mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and allowed(path, mode))
    with locked(out):
        assert (out / ".thack.lock").is_file()
        claim_output(out, "run")
    assert [path.name for path in out.iterdir()] == ["thack.json"]


def test_what_cannot_be_written_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with locked(tmp_path / "out"):
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".", "x" * 250, "ü" * 120, "a b\nc", "\udcff", "-dash"])
def test_every_name_has_a_lock(tmp_path: Path, name: str) -> None:
    with locked(tmp_path / "in" / name):
        assert lock_file(tmp_path / "in" / name).is_file()


def test_remains_of_killed_processes_go_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    claim_output(out, "run")
    gone = [
        tmp_path / ".out.123.0123abcd.tmp",
        tmp_path / ".out.0123abcd.old",
        out / ".config.toml.77.89abcdef.tmp",
        out / ".eval_set-0123abcd.1.0123abcd.tmp",
    ]
    stay = [
        tmp_path / ".other.1.0123abcd.tmp",
        tmp_path / "deadbeef.tmp",
        tmp_path / ".out.tmp",
        out / "notes.1.0123abcd.tmp",
        out / ".mine.tmp",
    ]
    for path in [*gone, *stay]:
        path.mkdir() if path.suffix == ".old" else path.write_text("x")
    with locked(out, part="rank-00001"):
        assert all(path.exists() for path in gone), "others may be writing"
    with locked(out):
        pass
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stay)


def test_four_processes_take_turns(tmp_path: Path) -> None:
    """Real ones, started at once."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom thack.runtime import lock\n"
        "lock._POLL_S = 0.01\nlog = Path(sys.argv[1]) / 'log'\n"
        "with lock.locked(Path(sys.argv[1]) / 'out'):\n"
        "    for _ in range(5):\n"
        "        with open(log, 'a') as file: file.write(sys.argv[2])\n"
        "        time.sleep(0.002)\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(n)]) for n in range(4)]
    assert [child.wait(60) for child in children] == [0] * 4
    written = (tmp_path / "log").read_text()
    assert [written[i : i + 5] for i in range(0, 20, 5)] == [written[i] * 5 for i in range(0, 20, 5)]
