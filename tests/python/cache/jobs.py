"""Captures as processes: killed, crowded, spread over ranks, out of space; prints what it found as JSON.

Run as a process of its own, in which torch is imported but has started no threads, so that a job is a
fork, and quick.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from thack.cache.capture.job import capture
from thack.config import CacheSettings
from thack.errors import ThackError
from thack.models.batch import Batch

sys.path.insert(0, str(Path(__file__).parents[1]))
from cache.conftest import FakeTeacher, make_sequences

SEQUENCES = make_sequences(60)
RANKS = [("torchrun", 1), ("torchrun", 2), ("torchrun", 3), ("torchrun", 4), ("slurm", 2), ("array", 3)]


class SlowTeacher(FakeTeacher):
    """Slow enough that kills land in every phase of a job, also while a shard is open."""

    def forward(self, batch: Batch, *, project: bool = True) -> torch.Tensor:
        time.sleep(0.002)
        return super().forward(batch, project=project)


class FillingTeacher(FakeTeacher):
    """Another process fills the disk while the teacher runs."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out

    def forward(self, batch: Batch, *, project: bool = True) -> torch.Tensor:
        if self.calls >= 6:
            with suppress(OSError), open(self._out / "other-user", "ab", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        return super().forward(batch, project=project)


def fork(work: Callable[[], object], environ: Mapping[str, str] | None = None) -> int:
    """Do `work` in a child that exits with 0, or with 1 after printing what it met; returns its pid."""
    pid = os.fork()
    if pid == 0:
        os.environ.update(environ or {})
        torch.set_num_threads(1)
        code = 1
        try:
            work()
            code = 0
        except ThackError as error:
            print(error, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def settings(out: Path, **changes: Any) -> CacheSettings:
    fixed = CacheSettings(out=out, kind="dense", shard_tokens=60, batch_size=4, device="cpu", dtype="float32")
    return replace(fixed, **changes)


def job(out: Path, environ: Mapping[str, str] | None = None, **changes: Any) -> int:
    return fork(lambda: capture(settings(out, **changes), teacher=SlowTeacher(), sequences=SEQUENCES), environ)


def finish(out: Path) -> float:
    started = time.perf_counter()
    status = wait(job(out))
    assert status == 0, f"a job that was not killed failed: {status}"
    return time.perf_counter() - started


def content(out: Path) -> dict[str, bytes]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and "journal" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def shards(out: Path) -> dict[str, int]:
    """The shards that have their name, and which file each is."""
    return {path.name: path.stat().st_ino for path in out.glob("shards/shard-*")}


def kill(root: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill -9 at random points, some jobs twice; then resume."""
    rng = random.Random(seed)
    finish(root / "whole")
    whole = content(root / "whole")
    duration = finish(root / "again")  # warm
    report: Counter[str] = Counter(shards=len(shards(root / "whole")))
    while report["kills"] < kills:
        out = root / f"killed{report['jobs']}"
        report["jobs"] += 1
        for _ in range(1 + report["jobs"] % 2):
            pid = job(out)
            time.sleep(rng.uniform(0, 0.8 * duration))
            os.kill(pid, signal.SIGKILL)
            if wait(pid) == signal.SIGKILL:
                report["kills"] += 1
                report[_phase(out, report["shards"])] += 1
        before = shards(out)
        finish(out)
        found = content(out)
        report["identical"] += found == whole
        report["written twice"] += sum(shards(out)[name] != inode for name, inode in before.items())
        report["orphans"] += sum(name.endswith(".tmp") for name in found)
    return dict(report)


def _phase(out: Path, total: int) -> str:
    """What a killed job left."""
    if not (out / "plan.json").exists():
        return "killed before the plan"
    if (out / "manifest.json").exists():
        return "killed after the manifest"
    done = len(shards(out))
    open_ = "with a shard open" if list(out.glob("shards/.*.tmp")) else "between shards"
    return f"killed {open_}" if done < total else "killed with all shards, no manifest"


def ranks(root: Path) -> dict[str, Any]:
    """One to four processes at once, with the variables of torchrun or of Slurm, and as an array."""
    finish(root / "whole")
    whole = content(root / "whole")
    report = {}
    for launcher, world in RANKS:
        out = root / f"{launcher}-{world}"
        pids = []
        for rank in range(world):
            pids.append(job(out, _variables(launcher, rank, world)))
            if launcher == "array":  # one task after the other, the last one first
                assert wait(pids.pop()) == 0
        assert all(wait(pid) == 0 for pid in pids)
        report[f"{launcher}, W={world}"] = content(out) == whole
    return report


def _variables(launcher: str, rank: int, world: int) -> dict[str, str]:
    if launcher == "slurm":
        return {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(world), "SLURM_STEP_ID": "0", "SLURM_LOCALID": "0"}
    return {"RANK": str(world - 1 - rank if launcher == "array" else rank), "WORLD_SIZE": str(world)}


def crowd(root: Path) -> dict[str, Any]:
    """Eight processes that all claim every shard of the same cache."""
    finish(root / "whole")
    whole, report = content(root / "whole"), Counter[str]()
    for round_ in range(3):
        out = root / f"crowd{round_}"
        pids = [job(out) for _ in range(8)]
        report["failed"] += sum(wait(pid) != 0 for pid in pids)
        report["identical"] += content(out) == whole
        report["rounds"] += 1
    return dict(report)


def full(root: Path) -> dict[str, Any]:
    """The disk fills up while shards are written; once there is room, the same command resumes."""
    whole, out = root / "whole", root / "small" / "cache"
    finish(whole)
    failed = wait(fork(lambda: capture(settings(out), teacher=FillingTeacher(out), sequences=SEQUENCES)))
    left = shards(out)
    (out / "other-user").unlink()
    finish(out)
    kept = sum(shards(out)[name] == inode for name, inode in left.items())
    return {"failed": failed != 0, "kept": kept, "left": len(left), "identical": content(out) == content(whole)}


MODES: dict[str, Callable[..., dict[str, Any]]] = {"kill": kill, "ranks": ranks, "crowd": crowd, "full": full}

if __name__ == "__main__":
    mode, root, *numbers = sys.argv[1:]
    print(json.dumps(MODES[mode](Path(root), *map(int, numbers))))
