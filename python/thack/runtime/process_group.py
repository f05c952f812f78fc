"""The processes of one run: how they find each other, and their collectives. A single process is a group too.

Flags, counts and objects travel on the CPU (gloo), so that agreeing on them never waits for a GPU. Gradients and
weights are reduced where they are (nccl on GPUs). A collective that fails raises PeerFailed, whatever the backend's
message is. Imports torch: not for the torch-free parts.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from thack.errors import PeerFailed, ThackError, UsageError
from thack.runtime.failures import is_out_of_memory, lost_peer
from thack.runtime.ranks import Rank, current_rank, rendezvous

T = TypeVar("T")
_PATIENCE = timedelta(hours=1)  # for a rank that saves, loads or evaluates while the others wait


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Collectives over all ranks; with one rank nothing is communicated and torch.distributed not touched."""

    rank: Rank = field(default_factory=Rank)

    @property
    def world_size(self) -> int:
        return self.rank.world_size

    @property
    def is_first(self) -> bool:
        return self.rank.is_first

    def all_reduce_sum(self, *values: float) -> tuple[float, ...]:
        """The sum over ranks of each value, in float64, the same on all of them."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def all_reduce_max(self, *values: float) -> tuple[float, ...]:
        """The largest of each value: how all ranks learn of what one of them received."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Sequence[float], how: dist.ReduceOp.RedOpType) -> tuple[float, ...]:
        if self.world_size == 1:
            return tuple(values)
        found = torch.tensor(values, dtype=torch.float64)
        with collective():
            dist.all_reduce(found, how)
        return tuple(found.tolist())

    def all_reduce_array(self, values: np.ndarray) -> np.ndarray:
        """The sum over ranks, element by element; exact where all but one rank hold zeros."""
        if self.world_size == 1:
            return values
        found = torch.from_numpy(values.copy())
        with collective():
            dist.all_reduce(found)
        return found.numpy()

    def all_gather(self, items: Sequence[T]) -> list[T]:
        """All ranks' items, rank after rank, on every rank."""
        if self.world_size == 1:
            return list(items)
        parts: list[list[T]] = [[] for _ in range(self.world_size)]
        with collective():
            dist.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def broadcast_from_rank0(self, value: T) -> T:
        """The first rank's value on every rank: what one process looks up and all use."""
        if self.world_size == 1:
            return value
        box = [value]
        with collective():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.all_reduce_max(0.0)

    def owns(self, number: int) -> bool:
        """Whether piece `number` of a list that all ranks know falls to this one."""
        return number % self.world_size == self.rank.rank

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Fail on every rank if the work inside fails on one, instead of leaving the others to wait for it.

        Nothing inside may communicate. A rank whose own work succeeded raises PeerFailed with the other's message.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        said = None if failure is None else (self.rank.rank, _message(failure), getattr(failure, "exit_code", 1))
        reports = [report for report in self.all_gather([said]) if report is not None]
        if failure is not None:
            raise failure
        if reports:
            rank, message, code = reports[0]
            peer = PeerFailed(f"rank {rank} failed: {message}")
            peer.exit_code = code
            raise peer


ALONE = ProcessGroup()


@contextmanager
def collective() -> Iterator[None]:
    """Around a call of torch.distributed: what it raises means that a peer is gone, for every backend.

    Backends raise RuntimeError or a subclass. A device that is out of memory is this rank's own failure.

    Raises:
        PeerFailed: another rank exited or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise lost_peer(error) from error


def _message(error: Exception) -> str:
    if isinstance(error, ThackError):
        return error.message
    return traceback.format_exception_only(error)[-1].strip()


@contextmanager
def init_process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the other ranks of this run, if there are any, and leave them at the end.

    A process group that exists already (a trainer's, a test's) is used and not destroyed.

    Raises:
        UsageError: the ranks do not find each other.
    """
    rank = current_rank()
    if rank.world_size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield ProcessGroup(Rank(dist.get_rank(), dist.get_world_size(), rank.local_rank))
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend, init_method=rendezvous(), rank=rank.rank, world_size=rank.world_size, timeout=_PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"rank {rank.rank} of {rank.world_size} found no other rank at {rendezvous()}",
            details=(str(error).split("\n")[0],),
            hint="start all of them by torchrun or srun; set MASTER_ADDR and MASTER_PORT if they cannot connect there",
        ) from error
    try:
        yield ProcessGroup(rank)
    finally:
        dist.destroy_process_group()
