"""Makes the world, then every case as 1, 2 and 4 processes: OUT/1/offline-ddp, OUT/2/offline-ddp, …

Processes are forked after the imports, which take longer than all cases together. Two processes find each
other by torchrun's variables, four by Slurm's.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import socket
import sys
import traceback
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed.fsdp

from distributed import idle
from distributed.cases import CASES, FOR_FOUR, begin_across, hold, meet, resume_across, wait_for
from thack.runtime.process_group import init_process_group
from training.across_world import build_across
from training.world import build_world


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    if world_size == 4:
        ranks = {"SLURM_PROCID": rank, "SLURM_NTASKS": 4, "SLURM_LOCALID": rank, "SLURM_STEP_ID": 0}
    else:
        ranks = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank}
    return {name: str(value) for name, value in ranks.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def copy_begun(across: Path, first: bool) -> None:
    """The stopped run, once for each number of ranks that resumes it."""
    if first:
        for world_size in (1, 2, 4):
            shutil.copytree(across / "begun", across / f"across-to-{world_size}")
        (across / "copied").touch()


def work(out: Path, rank: int, world_size: int, port: int) -> int:
    """One rank's life; 0 if every case ran."""
    faulthandler.dump_traceback_later(300, exit=True)
    os.environ.update(environment(rank, world_size, port))
    names = FOR_FOUR if world_size == 4 else tuple(CASES)
    try:
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
    except BaseException:
        print(f"rank {rank} of {world_size}:", flush=True)
        traceback.print_exc()
        return 1
    return 0


def main(out: Path) -> int:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
    os.environ["XDG_CACHE_HOME"] = str(out / "cache")
    children: list[int] = []
    builder = os.fork()  # its threads end with it
    if builder == 0:
        build_world(out / "world")
        build_across(out / "world" / "across")
        os._exit(0)
    if os.waitpid(builder, 0)[1]:
        return 1
    for world_size in (1, 2, 4):
        port = free_port()
        for rank in range(world_size):
            child = os.fork()
            if child == 0:
                os._exit(work(out, rank, world_size, port))
            children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
