"""One process at a time works on a directory, whatever happens to those before it."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from thack.experiments import lock as locks
from thack.experiments.lock import acquired


def age(path: Path, seconds: float) -> None:
    before = time.time() - seconds
    os.utime(path, (before, before))


def test_two_that_want_the_same_directory_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with acquired(tmp_path / "stage"):
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


@pytest.mark.parametrize(
    ("owner", "age_s"),
    [
        ({"host": "elsewhere", "pid": 1, "boot": "other"}, 1000.0),  # another node, without a heartbeat
        ("", 1000.0),  # died before it wrote its name
    ],
)
def test_an_abandoned_lock_is_taken_over(tmp_path: Path, owner: object, age_s: float) -> None:
    lock = tmp_path / ".stage.lock"
    lock.write_text(json.dumps(owner) if owner else "")
    age(lock, age_s)
    with acquired(tmp_path / "stage"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


@pytest.mark.parametrize("owner", [{"host": "elsewhere", "pid": 1, "boot": "other"}, ""])
def test_another_machines_lock_is_respected_until_it_is_stale(
    tmp_path: Path, owner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its process exists is a question that this machine cannot answer."""
    lock = tmp_path / ".stage.lock"
    lock.write_text(json.dumps(owner) if owner else "")
    polls = []

    def sleep(seconds: float) -> None:
        polls.append(seconds)
        if len(polls) == 3:
            age(lock, 1000.0)

    monkeypatch.setattr(time, "sleep", sleep)
    with acquired(tmp_path / "stage", stale_s=300.0):
        assert len(polls) == 3


def test_two_machines_with_the_same_process_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of host b whose pid exists here too: only its age counts."""
    monkeypatch.setattr(socket, "gethostname", lambda: "b")
    lock = tmp_path / ".stage.lock"
    with acquired(tmp_path / "stage"):
        left = lock.read_text()
    monkeypatch.setattr(socket, "gethostname", lambda: "a")
    lock.write_text(left)
    assert not locks._abandoned(lock, 300.0)
    age(lock, 301.0)
    assert locks._abandoned(lock, 300.0)


def test_the_heartbeat_keeps_a_lock_fresh(tmp_path: Path) -> None:
    lock = tmp_path / ".stage.lock"
    with acquired(tmp_path / "stage", heartbeat_s=0.01):
        age(lock, 1000.0)
        deadline = time.monotonic() + 10
        while time.time() - lock.stat().st_mtime > 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - lock.stat().st_mtime < 100


def test_an_owner_that_lost_its_lock_leaves_the_next_ones_alone(tmp_path: Path) -> None:
    lock = tmp_path / ".thing.lock"
    with acquired(tmp_path / "thing"):
        lock.unlink()
        lock.write_text("the next owner's")
    assert lock.read_text() == "the next owner's"


def test_an_owner_of_this_machine_that_died_is_noticed_at_once(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with acquired(tmp_path / "stage"):
            os._exit(0)  # without releasing it
    os.waitpid(pid, 0)
    assert (tmp_path / ".stage.lock").exists()
    started = time.monotonic()
    with acquired(tmp_path / "stage"):
        pass
    assert time.monotonic() - started < 30


def test_only_one_removes_an_abandoned_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    lock, taken = tmp_path / ".stage.lock", tmp_path / ".stage.lock.taken"
    lock.write_text("")
    age(lock, 1000.0)
    taken.write_text("")
    locks._remove_abandoned(lock, 300.0)
    assert lock.exists() and taken.exists(), "another process is about to remove it"
    age(taken, 1000.0)
    locks._remove_abandoned(lock, 300.0)
    assert lock.exists() and not taken.exists(), "that process has died"
    locks._remove_abandoned(lock, 300.0)
    assert not lock.exists() and not taken.exists()
