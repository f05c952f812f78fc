"""One process at a time works on a directory, also across the nodes of a cluster.

The protocol uses what every cluster file system has: exclusive creation of a file, and its time of modification.
`flock` is not among it.

- *Acquire.* Create `.NAME.lock` beside the directory with O_CREAT | O_EXCL, and write the owner into it: host, process
  id, boot id and a random number. Whoever finds the file there waits and looks again every second.
- *Heartbeat.* While the lock is held, a thread updates the file's time every 20 seconds.
- *Stale.* A lock is abandoned if its owner was a process of this machine that no longer exists. An owner on another
  machine cannot be asked: its lock is abandoned after 300 seconds without a heartbeat. Clocks of nodes may differ by
  some of that.
- *Take over.* Two processes may find the same stale lock. One of them must not remove the lock that the other has
  acquired since. So the remover first acquires `.NAME.lock.taken`, checks again that the lock is abandoned, and only
  then removes it. A `.taken` file that is itself older than 300 seconds is removed.
- *Release.* The owner removes the file if its own name is still in it: a process that was suspended for too long has
  lost its lock.
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

HEARTBEAT_S = 20.0
STALE_S = 300.0
_POLL_S = 1.0


@contextmanager
def acquired(path: Path, *, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S) -> Iterator[None]:
    """Wait for the lock of a directory, and hold it for the block.

    Args:
        path: The directory; it need not exist.
        heartbeat_s: Seconds between two updates of the lock.
        stale_s: Seconds without an update after which another machine's lock counts as abandoned.

    Raises:
        ThackError: the file system is full, or does not let the lock be written.
    """
    lock, owner = path.with_name(f".{path.name}.lock"), _own_name()
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _create(lock, owner):
            if _abandoned(lock, stale_s):
                _remove_abandoned(lock, stale_s)
            else:
                time.sleep(_POLL_S)
    done = threading.Event()
    heartbeat = threading.Thread(target=_beat, args=(lock, done, heartbeat_s), daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        done.set()
        heartbeat.join()
        _release(lock, owner)


def _release(lock: Path, owner: str) -> None:
    with suppress(FileNotFoundError):
        if lock.read_text() == owner:
            lock.unlink()


def _own_name() -> str:
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot(), "nonce": secrets.token_hex(8)}
    return json.dumps(owner)


def _create(lock: Path, content: str) -> bool:
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(content)
    return True


def _abandoned(lock: Path, stale_s: float) -> bool:
    try:
        silent_s = time.time() - lock.stat().st_mtime
        owner = json.loads(lock.read_text())
    except FileNotFoundError:
        return False  # released in the meantime
    except ValueError:
        return silent_s > stale_s  # its owner has not written its name yet, and may have died before it could
    if (owner.get("host"), owner.get("boot")) == (socket.gethostname(), _boot()):
        return not _exists(int(owner["pid"]))
    return silent_s > stale_s


def _remove_abandoned(lock: Path, stale_s: float) -> None:
    taken = lock.with_name(lock.name + ".taken")
    if not _create(taken, ""):
        with suppress(FileNotFoundError):
            if time.time() - taken.stat().st_mtime > stale_s:
                taken.unlink()
        time.sleep(_POLL_S)
        return
    try:
        if _abandoned(lock, stale_s):
            lock.unlink(missing_ok=True)
    finally:
        taken.unlink(missing_ok=True)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot() -> str:
    """Differs between containers, and between two boots, that share a host name; empty where the kernel has none."""
    found = ""
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            found += os.readlink(name) if "ns/" in name else Path(name).read_text().strip()
    return found


def _beat(lock: Path, done: threading.Event, heartbeat_s: float) -> None:
    while not done.wait(heartbeat_s):
        with suppress(OSError):
            os.utime(lock)
