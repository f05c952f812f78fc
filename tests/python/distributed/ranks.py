"""Ranks as forks of one process, after its imports, which take longer than what is tested."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from functools import partial


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Up to three processes find each other by torchrun's variables, four by Slurm's."""
    if world_size == 4:
        ranks = {"SLURM_PROCID": rank, "SLURM_NTASKS": 4, "SLURM_LOCALID": rank, "SLURM_STEP_ID": 0}
    else:
        ranks = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank}
    return {name: str(value) for name, value in ranks.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def fork_ranks(world_size: int, work: Callable[[int], None]) -> list[int]:
    """Start the ranks; each does the work of its number, and says where it failed. Gives their process ids."""
    port, children = free_port(), []
    for rank in range(world_size):
        child = os.fork()
        if child == 0:
            os.environ.update(environment(rank, world_size, port))
            os._exit(_status(partial(work, rank), f"rank {rank} of {world_size}"))
        children.append(child)
    return children


def _status(work: Callable[[], None], name: str) -> int:
    try:
        work()
    except BaseException:
        print(f"{name}:", flush=True)
        traceback.print_exc()
        return 1
    return 0


def any_failed(children: list[int]) -> bool:
    """Wait for all of them."""
    return any([os.waitpid(child, 0)[1] for child in children])
