"""How many threads this process may use: what the kernel, the container and the scheduler grant.

`os.cpu_count()` counts the machine's cores, also where a container or a Slurm step may use two of them;
a pool of that size runs several times slower than one of the right size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from threading import Thread

from thack.errors import UsageError
from thack.runtime.failures import explained_failure

_MOST = 4096  # of threads: more than any machine has, and what torch and the Rust pool still accept


def limits(environ: Mapping[str, str] = os.environ, cgroups: Path = Path("/sys/fs/cgroup")) -> dict[str, int]:
    """Every limit that was found, by name; the smallest binds."""
    found = {"affinity mask": _affinity()}
    quota = _cgroup_quota(cgroups)
    if quota is not None:
        found["cgroup quota"] = quota
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        value = _whole(environ.get(name, "").split(",")[0].strip())
        if value > 0:
            found[name] = value
    return found


def threads(environ: Mapping[str, str] = os.environ) -> int:
    """THACK_NUM_THREADS if set, else the smallest of `limits`."""
    wanted = environ.get("THACK_NUM_THREADS", "").strip()
    if not wanted:
        return min(limits(environ).values())
    number = _whole(wanted)
    if not 1 <= number <= _MOST:
        hint = f"give a whole number from 1 to {_MOST:,}, or unset it"
        raise UsageError(f"THACK_NUM_THREADS is {wanted[:20]!r}", hint=hint)
    return number


def let_idle_threads_sleep(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make OpenMP's threads sleep while they wait for each other, unless the user decided; before torch is imported.

    They spin by default. On cores that other work shares, a thread then waits by spinning for one that does not run:
    with five other jobs on two cores a training step took four times the CPU time and six times as long. On a quiet
    machine a step of a small model takes at most a tenth longer (benches/LOG.md).
    """
    if not any(name in environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        environ["OMP_WAIT_POLICY"] = "PASSIVE"


def require_a_thread() -> None:
    """Start a thread, before anything that needs one is imported.

    Raises:
        ThackError: the machine grants none.
    """
    try:
        one = Thread(target=int)
        one.start()
        one.join()
    except RuntimeError as error:
        raise explained_failure(error) or error from error


def _whole(text: str) -> int:
    """A whole number; 0 for anything else."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def apply_threads() -> int:
    """Tell torch, and the Rust pool through its environment variable, how many threads to use."""
    import torch  # seconds to import, and light commands count threads too

    number = threads()
    os.environ["THACK_NUM_THREADS"] = str(number)
    torch.set_num_threads(number)
    return number


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_quota(root: Path) -> int | None:
    """CPUs by the tightest cgroup quota on the way up from this process (v2, then v1), rounded up."""
    quotas = [_v2_quota(folder / "cpu.max") for folder in _own_cgroups(root)]
    for controller in ("cpu", "cpu,cpuacct"):
        folder = root / controller
        quotas.append(_v1_quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    known = [quota for quota in quotas if quota is not None]
    return max(1, math.ceil(min(known))) if known else None


def _own_cgroups(root: Path) -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    parts = Path(own).parts
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _v2_quota(path: Path) -> float | None:
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _v1_quota(quota_path: Path, period_path: Path) -> float | None:
    try:
        quota, period = int(quota_path.read_text()), int(period_path.read_text())
        return quota / period if quota > 0 and period > 0 else None
    except (OSError, ValueError):
        return None
