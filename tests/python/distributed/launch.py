"""Makes the world, then every case as 1, 2 and 4 processes: OUT/1/offline-ddp, OUT/2/offline-ddp, …"""

from __future__ import annotations

import faulthandler
import os
import shutil
import sys
import warnings
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch._dynamo
import torch.distributed.fsdp

from distributed import idle
from distributed.cases import (
    CASES,
    FOR_FOUR,
    begin_across,
    build_second_cache,
    hold,
    meet,
    resume_across,
    wait_for,
)
from distributed.ranks import any_failed, fork_ranks
from thack.runtime.process_group import init_process_group
from training.across_world import build_across
from training.world import build_world


def copy_begun(across: Path, first: bool) -> None:
    """The stopped run, once for each number of ranks that resumes it."""
    if first:
        for world_size in (1, 2, 4):
            shutil.copytree(across / "begun", across / f"across-to-{world_size}")
        (across / "copied").touch()


def work(out: Path, world_size: int, rank: int) -> None:
    """One rank's life; 0 if every case ran."""
    faulthandler.dump_traceback_later(300, exit=True)
    names = FOR_FOUR if world_size == 4 else tuple(CASES)
    with init_process_group(torch.device("cpu")) as group:
        if world_size == 2:
            idle.run(out / "idle", group)
            begin_across(out / "world", out / "across")
            copy_begun(out / "across", group.is_first)
        for name in names:
            CASES[name](out / "world", out / str(world_size) / name)
            group.barrier()
        wait_for(out / "across" / "copied")
        resume_across(out / "world", out / "across", world_size)
        if world_size > 1:
            (hold if world_size == 2 else meet)(out / "world", out / "shared" / "run")


def main(out: Path) -> int:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
    os.environ["XDG_CACHE_HOME"] = str(out / "cache")
    builder = os.fork()  # its threads end with it
    if builder == 0:
        build_world(out / "world")
        build_second_cache(out / "world")
        build_across(out / "world" / "across")
        os._exit(0)
    if os.waitpid(builder, 0)[1]:
        return 1
    children = [child for size in (1, 2, 4) for child in fork_ranks(size, partial(work, out, size))]
    return int(any_failed(children))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
