"""Kills captures at random points and resumes them; prints what it found as JSON.

Run as a process of its own, in which torch is imported but has started no threads, so that a job
is a fork, and quick.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from thack.cache.capture import capture
from thack.config.settings import CacheSettings

sys.path.insert(0, str(Path(__file__).parent))
from conftest import FakeTeacher, make_sequences

SEQUENCES = make_sequences(60)


class SlowTeacher(FakeTeacher):
    """Slow enough that kills land in every phase of a job, also while a shard is open."""

    def forward(self, batch: object, *, project: bool = True) -> torch.Tensor:
        time.sleep(0.002)
        return super().forward(batch, project=project)  # type: ignore[arg-type]


def job(out: Path) -> int:
    """Capture in a child; returns its pid."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        code = 1
        try:
            capture(settings(out), teacher=SlowTeacher(), sequences=SEQUENCES)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def settings(out: Path) -> CacheSettings:
    return CacheSettings(out=out, kind="dense", shard_tokens=60, batch_size=4, device="cpu", dtype="float32")


def finish(out: Path) -> float:
    started = time.perf_counter()
    _, status = os.waitpid(job(out), 0)
    assert status == 0, f"a job that nobody killed failed: {status}"
    return time.perf_counter() - started


def content(out: Path) -> dict[str, bytes]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and "journal" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def main(root: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    finish(root / "whole")
    whole = content(root / "whole")
    duration = finish(root / "again")  # warm
    report = {"kills": 0, "jobs": 0, "identical": 0, "orphans": 0}
    report["shards"] = sum(name.startswith("shards/") for name in whole)
    while report["kills"] < kills:
        out = root / f"killed{report['jobs']}"
        report["jobs"] += 1
        for _ in range(1 + report["jobs"] % 2):  # up to two kills of the same job
            pid = job(out)
            time.sleep(rng.uniform(0, 0.8 * duration))
            os.kill(pid, signal.SIGKILL)
            report["kills"] += os.waitpid(pid, 0)[1] == signal.SIGKILL
        finish(out)
        found = content(out)
        report["identical"] += found == whole
        report["orphans"] += sum(name.endswith(".tmp") for name in found)
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
