"""Who holds the lock of an output directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thack.schema.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class LockOwner(Document):
    """The content of a lock file: one process, told from every other one that has its host name or process id.

    Args:
        host: its name.
        pid: process id on that host, ≥ 1.
        boot: differs between two boots of a host, and between containers that share a name.
        start: when the process began, as its kernel counts: a later process may have the same id. Empty: not known.
        nonce: random, of this one acquisition.
        since: when it acquired the lock, in UTC.
        command: what it runs.
        job: its Slurm job; empty: none.
    """

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = "lock"

    host: str
    pid: int
    boot: str
    start: str
    nonce: str
    since: str
    command: str
    job: str = ""

    def __str__(self) -> str:
        job = f", Slurm job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}: {self.command}"
