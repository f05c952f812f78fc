"""One maker per directory, also across nodes: a lock file beside it that its holder keeps fresh.

`flock` is not there on every cluster file system (pitfall 23), O_EXCL is. A lock whose holder died is taken over:
at once where the holder was a process of this machine, else when it has not been touched for minutes.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thack.files import explained

BEAT_S = 20.0
STALE_S = 300.0  # of silence; clocks of nodes may differ by some of it
_POLL_S = 1.0


@contextmanager
def held(path: Path, *, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> Iterator[None]:
    """Wait until nobody else makes `path`, and hold it for the block."""
    lock, name = path.with_name(f".{path.name}.lock"), _own_name()
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _create(lock, name):
            if _abandoned(lock, stale_s):
                _take_away(lock, stale_s)
            else:
                time.sleep(_POLL_S)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(lock, done, beat_s), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        _release(lock, name)


def _release(lock: Path, name: str) -> None:
    """Not a lock that is another's by now: one that was silent for too long has lost its own."""
    with suppress(FileNotFoundError):
        if lock.read_text() == name:
            lock.unlink()


def _own_name() -> str:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot(), "nonce": secrets.token_hex(8)}
    return json.dumps(holder)


def _create(lock: Path, name: str) -> bool:
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(name)
    return True


def _abandoned(lock: Path, stale_s: float) -> bool:
    try:
        silent_s = time.time() - lock.stat().st_mtime
        holder = json.loads(lock.read_text())
    except FileNotFoundError:
        return False  # released just now
    except ValueError:
        return silent_s > stale_s  # its holder has not got round to writing its name, and perhaps never will
    if (holder.get("host"), holder.get("boot")) == (socket.gethostname(), _boot()):
        return not _alive(int(holder["pid"]))
    return silent_s > stale_s


def _take_away(lock: Path, stale_s: float) -> None:
    """Remove an abandoned lock; a second lock sees to it that nobody removes the next holder's."""
    second = lock.with_name(lock.name + ".taken")
    try:
        os.close(os.open(second, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        with suppress(FileNotFoundError):
            if time.time() - second.stat().st_mtime > stale_s:
                second.unlink()
        time.sleep(_POLL_S)
        return
    try:
        if _abandoned(lock, stale_s):
            lock.unlink(missing_ok=True)
    finally:
        second.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot() -> str:
    """Tells containers and reboots apart that share a host name; empty where the kernel does not say."""
    found = ""
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            found += os.readlink(name) if "ns/" in name else Path(name).read_text().strip()
    return found


def _beat(lock: Path, done: threading.Event, beat_s: float) -> None:
    while not done.wait(beat_s):
        with suppress(OSError):
            os.utime(lock)
