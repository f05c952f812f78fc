"""One process at a time works on an output, also across the nodes of a cluster.

The protocol uses what every cluster file system has: exclusive creation of a file, and its time of modification.
`flock` is not among it.

- *Acquire.* Create `.NAME.lock` beside the output with O_CREAT | O_EXCL, and write the owner into it (`LockOwner`).
  Where the folder around an existing directory cannot be written (a mounted volume), the lock is inside it. Whoever
  finds the file there says who holds it, waits, and looks again every second.
- *Heartbeat.* While the lock is held, a thread updates the file's time every 20 seconds.
- *Stale.* An owner on this machine is asked for: its lock is abandoned once its process is gone. An owner elsewhere
  cannot be asked. Its lock is abandoned if its time stood still for 300 seconds by the clock of the one who waits. It
  is enough to see it stand still for three heartbeats where its age is above 300 seconds by the clock of the file
  system. So a clock that is wrong neither takes a lock from a process that runs, nor keeps one for ever.
- *Hung.* An owner on this machine that runs, but updates nothing for 300 seconds, is suspended or hangs. Whoever waits
  for it ends with an error that names it: its lock is not taken, since it may continue at any moment.
- *Take over.* Two processes may find the same stale lock. One of them must not remove the lock that the other has
  acquired since. So the remover first acquires `.NAME.lock.taken`, checks that the lock is still the one it watched,
  and only then removes it. A `.taken` file is itself taken over by the same rule.
- *Release.* The owner removes the file if its own name is still in it.
- *Loss.* A process that was suspended for longer than that finds another's name in its lock, and stops without
  writing anything more (`preemption.withdraw`).

An output that cannot be written at all needs no lock: a finished run on read-only media can still be looked at.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thack.errors import DataError, ThackError
from thack.files import digest, explained
from thack.reading import BadJson, parse_json
from thack.runtime import preemption
from thack.runtime.lock_owner import is_here, own_name, runs
from thack.runtime.progress import SILENT, Progress
from thack.runtime.remains import remove_remains
from thack.schema.lock import LockOwner

HEARTBEAT_S = 20.0
STALE_S = 300.0
_POLL_S = 1.0
_MOST_BYTES = 4096  # of a lock file; an owner is much shorter
_LONGEST_NAME = 200  # bytes; file systems take 255, and `.taken` must fit too
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

_held: dict[tuple[int, int, Path], int] = {}  # process, thread and lock file → how often it has entered


@contextmanager
def locked(
    path: Path,
    progress: Progress = SILENT,
    *,
    part: str = "",
    patience_s: float | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    stale_s: float = STALE_S,
) -> Iterator[None]:
    """Wait for the lock of an output, and hold it for the block. A thread that holds it may enter again.

    What killed processes left of the output is removed, unless `part` shows that others work there too.

    Args:
        path: The directory or file; it need not exist.
        progress: Says who holds the lock while this process waits.
        part: Of the output, where several processes write to it side by side: only the same part excludes another.
        patience_s: Seconds to wait for an owner that is known to run; None: without end. One on another machine is
            known to run once its lock was updated.
        heartbeat_s: Seconds between two updates of the lock.
        stale_s: Seconds without an update after which another machine's lock counts as abandoned.

    Raises:
        ThackError: the file system is full, the owner still runs after `patience_s`, or it is suspended.
        Preempted, Interrupted: a signal was received while it waited.
    """
    place = path.expanduser()
    lock = lock_file(place, part)
    key = (os.getpid(), threading.get_ident(), lock)
    if key in _held or not _can_lock(lock):
        _held.update({key: _held[key] + 1} if key in _held else {})
        try:
            yield
        finally:
            _held.update({key: _held[key] - 1} if key in _held else {})
        return
    owner = own_name()
    done = threading.Event()
    heartbeat = threading.Thread(target=_beat, args=(path, lock, owner, done, heartbeat_s), daemon=True)
    try:
        with preemption.interruptible(), explained(path):
            _acquire(lock, owner, _Waiting(path, progress, patience_s), _Watch(stale_s, min(3 * heartbeat_s, stale_s)))
            preemption.answer_pending()  # a signal while the lock was written
        _held[key] = 1
        heartbeat.start()
        if not part:
            remove_remains(place)
        yield
    finally:
        with preemption.undisturbed():
            _held.pop(key, None)
            done.set()
            if heartbeat.ident is not None:
                heartbeat.join()
            preemption.rejoin()
            _release(lock, owner)


def lock_file(path: Path, part: str = "") -> Path:
    """The lock of an output: beside it, or inside a directory whose surroundings cannot be written."""
    whole = Path(os.path.realpath(path))
    ending = f".{part}.lock" if part else ".lock"
    inside = whole.is_dir() and (whole.parent == whole or not os.access(whole.parent, os.W_OK))
    if inside:
        return whole / f".thack{ending}"
    name = whole.name if len(os.fsencode(whole.name)) < _LONGEST_NAME else digest(os.fsencode(whole.name))[7:39]
    return whole.with_name(f".{name}{ending}")


def _can_lock(lock: Path) -> bool:
    """Whether the folder can be written. If not, neither can the output: the work itself says so where it matters."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        return False
    return os.access(lock.parent, os.W_OK)


def _acquire(lock: Path, owner: str, waiting: _Waiting, watch: _Watch) -> None:
    while not _create(lock, owner):
        if watch.is_abandoned(lock):
            _remove_abandoned(lock, watch)
        else:
            waiting.go_on(lock, watch)


class _Waiting:
    """Waits for the owner of a lock: says once who it is, and ends when patience does."""

    def __init__(self, path: Path, progress: Progress, patience_s: float | None) -> None:
        self._path, self._progress, self._patience_s = path, progress, patience_s
        self._ends: float | None = None
        self._named = ""

    def go_on(self, lock: Path, watch: _Watch) -> None:
        """Wait for a moment."""
        who = str(_owner_of(lock) or "a process that left no name")
        if who != self._named:
            self._progress.note(f"waiting for {self._path}, in use by {who}")
            self._named = who
        if watch.hangs:
            raise ThackError(
                f"`out` {self._path} is in use by a process that is suspended or hangs",
                details=[f"by {who}"],
                hint="let it continue (kill -CONT and its number) or end it (kill -9), then run the same command again",
            )
        if self._patience_s is not None and watch.has_seen_it_run and self._ends is None:
            self._ends = time.monotonic() + self._patience_s
        if self._ends is not None and time.monotonic() >= self._ends:
            raise ThackError(
                f"`out` {self._path} is in use",
                details=[f"by {who}"],
                hint="wait for it, stop it, or give another `out`",
            )
        time.sleep(_POLL_S)


class _Watch:
    """What one process has seen of a lock, by its own clock."""

    def __init__(self, stale_s: float, confirm_s: float) -> None:
        self._stale_s, self._confirm_s = stale_s, confirm_s
        self._seen: tuple[bytes, int] | None = None
        self._since = 0.0
        self.has_seen_it_run = False
        self.hangs = False  # it is on this machine, exists, and has updated nothing for as long as a stale lock

    def is_abandoned(self, lock: Path) -> bool:
        """Whether its owner is gone, for all that can be known here."""
        found = _look(lock)
        if found is None:  # released in the meantime
            return False
        if found != self._seen:
            self.has_seen_it_run = self._seen is not None
            self._seen, self._since = found, time.monotonic()
        owner = _parsed(found[0])
        still_s = time.monotonic() - self._since
        if owner is not None and is_here(owner):
            self.has_seen_it_run = runs(owner)
            self.hangs = self.has_seen_it_run and still_s > self._stale_s
            return not self.has_seen_it_run
        return still_s > self._stale_s or (still_s >= self._confirm_s and _age_s(lock) > self._stale_s)

    def is_the_same(self, lock: Path) -> bool:
        """Whether the lock is the one that was watched, untouched."""
        return _look(lock) == self._seen


def _look(lock: Path) -> tuple[bytes, int] | None:
    """Content and time of a lock. It is opened, since NFS answers a bare stat from memory."""
    try:
        # A FIFO of that name must not be waited for.
        with open(lock, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return file.read(_MOST_BYTES) or b"", os.fstat(file.fileno()).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # not readable, a directory, a stale handle: like a lock without a name
        with suppress(OSError):
            return b"", os.lstat(lock).st_mtime_ns
        return None


def _parsed(content: bytes) -> LockOwner | None:
    try:
        owner = LockOwner.parse(parse_json(content))
    except (BadJson, DataError):
        return None
    return owner if 0 < owner.pid < 1 << 31 else None


def _owner_of(lock: Path) -> LockOwner | None:
    found = _look(lock)
    return None if found is None else _parsed(found[0])


def _age_s(lock: Path) -> float:
    """Seconds since the last update, both ends taken from the clock of the file system."""
    probe = lock.with_name(f"{lock.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with suppress(OSError):
            return os.fstat(handle).st_mtime - os.stat(lock).st_mtime
        return 0.0
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)


def _remove_abandoned(lock: Path, watch: _Watch) -> None:
    taken = lock.with_name(lock.name + ".taken")
    guard = _Watch(watch._stale_s, watch._confirm_s)
    while not _create(taken, own_name()):
        if _look(lock) is None or not watch.is_the_same(lock):
            return
        if guard.is_abandoned(taken):
            taken.unlink(missing_ok=True)
        time.sleep(_POLL_S)
    try:
        if watch.is_the_same(lock):
            _unlink(lock)
    finally:
        taken.unlink(missing_ok=True)


def _unlink(lock: Path) -> None:
    try:
        lock.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):
        os.rmdir(lock)


def _release(lock: Path, owner: str) -> None:
    if _is_ours(lock, owner):
        lock.unlink(missing_ok=True)


def _is_ours(lock: Path, owner: str) -> bool:
    found = _look(lock)
    return found is not None and found[0] == owner.encode()


def _create(lock: Path, content: str) -> bool:
    """Create the lock file with its content; whether it is ours. A signal waits, or the file would stay without it."""
    with preemption.undisturbed():
        return _created(lock, content)


def _created(lock: Path, content: str) -> bool:
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return _is_ours(lock, content)  # NFS may repeat a request whose answer was lost
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content)
    except BaseException:
        lock.unlink(missing_ok=True)  # a full disk: without a name the lock would stop everyone
        raise
    return True


def _beat(path: Path, lock: Path, owner: str, done: threading.Event, heartbeat_s: float) -> None:
    while not done.wait(heartbeat_s):
        with suppress(OSError):
            if (now := _look(lock)) is not None and now[0] != owner.encode():
                preemption.withdraw(
                    f"stopped: {path} was taken over by {_parsed(now[0]) or 'a process that left no name'}"
                )
                return
            os.utime(lock)
