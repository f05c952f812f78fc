"""Who this process is among many: torchrun's variables, else Slurm's, else alone. Read only here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from thack.errors import UsageError


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of `world_size`; `local_rank` counts within its node and picks its GPU."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def patience_s(self) -> float | None:
        """Seconds to wait for another start that runs: where other ranks wait for this one, as long as ending takes.

        None: a process alone may wait without end.
        """
        return 10.0 if self.world_size > 1 else None

    @property
    def part(self) -> str:
        """Names what this process writes where ranks write side by side: its lock, its journal."""
        return f"rank-{self.rank:05d}"


_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")


def current_rank(environ: Mapping[str, str] = os.environ) -> Rank:
    """torchrun's variables win over Slurm's: `srun torchrun` sets both, with Slurm's counting launchers."""
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _read(environ, _TORCHRUN)
    # `srun` sets PROCID for every task; a bare `sbatch` script has NTASKS but runs once, without a step id.
    if "SLURM_PROCID" in environ and "SLURM_STEP_ID" in environ and "SLURM_NTASKS" in environ:
        return _read(environ, _SLURM)
    return Rank()


def _read(environ: Mapping[str, str], names: tuple[str, str, str]) -> Rank:
    values = [environ.get(name, "0") for name in names]
    if not all(value.isdecimal() and len(value) < 10 for value in values):
        pairs = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
        raise UsageError("rank variables are not whole numbers", details=pairs)
    rank = Rank(*map(int, values))
    if rank.rank >= rank.world_size:
        raise UsageError(f"rank {rank.rank} of {rank.world_size}: ranks count from 0", details=[", ".join(names)])
    return rank


def master_address(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Where ranks connect: MASTER_ADDR and MASTER_PORT, else the step's first node and a port of the job."""
    host = environ.get("MASTER_ADDR") or first_host(environ.get("SLURM_STEP_NODELIST", "")) or "127.0.0.1"
    job = environ.get("SLURM_JOB_ID", "0")
    default = 29500 + (int(job) % 1000 if job.isdecimal() else 0)
    return host, int(environ.get("MASTER_PORT", default))


def rendezvous(environ: Mapping[str, str] = os.environ) -> str:
    """Where torch.distributed finds the other ranks: torchrun holds the port itself, elsewhere rank 0 opens it."""
    if "TORCHELASTIC_RUN_ID" in environ:
        return "env://"
    host, port = master_address(environ)
    return f"tcp://{host}:{port}"


def first_host(nodelist: str) -> str:
    """The first name in Slurm's compressed list: `gpu[07-09,12],cpu1` gives `gpu07`."""
    prefix, bracket, numbers = nodelist.partition("[")
    if not bracket or "," in prefix:
        return nodelist.split(",")[0]
    return prefix + numbers.split("]")[0].split(",")[0].split("-")[0]
