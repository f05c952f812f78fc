"""Who holds a lock: this process by name, and whether another one of this machine still runs."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from thack.schema.lock import LockOwner


def own_name() -> str:
    """This process as the content of a lock file."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else ["python"]
    owner = LockOwner(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot=boot(),
        start=start_of(os.getpid()),
        nonce=secrets.token_hex(8),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        command=shlex.join(words)[:200],
        job=os.environ.get("SLURM_JOB_ID", ""),
    )
    return json.dumps(owner.dump())


def is_here(owner: LockOwner) -> bool:
    """Whether it is a process of this machine, since its last boot: only such a one can be asked for."""
    return (owner.host, owner.boot) == (socket.gethostname(), boot())


def runs(owner: LockOwner) -> bool:
    """Whether a process of this machine is still the one that acquired the lock."""
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not owner.start or start_of(owner.pid) in ("", owner.start)


def start_of(pid: int) -> str:
    """When a process of this machine began, in ticks since the boot; empty where the kernel does not say."""
    with suppress(OSError, IndexError):
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if state in "ZX" else numbers[18]  # a zombie waits for its parent, and writes nothing more
    return ""


def boot() -> str:
    """Differs between containers, and between two boots, that share a host name; empty where the kernel has none."""
    found = ""
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            found += os.readlink(name) if "ns/" in name else Path(name).read_text().strip()
    return found
