"""A process group of one communicates nothing; in a larger one a failed collective is a lost peer, by type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from thack.errors import DataError, PeerFailed, UsageError
from thack.runtime.process_group import ALONE, ProcessGroup, init_process_group
from thack.runtime.ranks import Rank
from thack.training.sharding import sum_gradients

TWO = ProcessGroup(Rank(1, 2, 0))


def test_one_process_is_a_group_that_communicates_nothing() -> None:
    values = np.arange(3)
    assert ALONE.all_reduce_sum(1.5, 2) == (1.5, 2) == ALONE.all_reduce_max(1.5, 2)
    assert ALONE.all_reduce_array(values) is values
    assert ALONE.all_gather(["a", "b"]) == ["a", "b"] and ALONE.broadcast_from_rank0("x") == "x"
    ALONE.barrier()
    assert ALONE.owns(0) and ALONE.owns(7) and ALONE.is_first
    with init_process_group(torch.device("cpu")) as group:
        assert group is ALONE
    with pytest.raises(KeyError), ALONE.raise_on_all_ranks():
        raise KeyError("its own error")


def test_pieces_are_owned_by_turns() -> None:
    assert [number for number in range(6) if TWO.owns(number)] == [1, 3, 5]


COLLECTIVES: dict[str, Callable[[], Any]] = {
    "all_reduce_sum": lambda: TWO.all_reduce_sum(1.0),
    "all_reduce_max": lambda: TWO.all_reduce_max(1.0),
    "all_reduce_array": lambda: TWO.all_reduce_array(np.zeros(2)),
    "all_gather": lambda: TWO.all_gather([1]),
    "broadcast_from_rank0": lambda: TWO.broadcast_from_rank0(1),
    "barrier": TWO.barrier,
    "sum_gradients": lambda: sum_gradients([_with_gradient()], TWO),
}


def _with_gradient() -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    return parameter


def _failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    for name in ("all_reduce", "all_gather_object", "broadcast_object_list"):
        monkeypatch.setattr(dist, name, fail)


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed"),
        dist.DistBackendError("NCCL error in: ncclInternalError: Internal check failed"),
    ],
    ids=["gloo", "nccl"],
)
def test_a_collective_that_fails_is_a_lost_peer_whatever_its_message(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    _failing(monkeypatch, error)
    with pytest.raises(PeerFailed, match="a peer rank exited or timed out") as found:
        COLLECTIVES[name]()
    assert found.value.__cause__ is error and str(error) in str(found.value)


def test_a_device_that_is_full_is_not_a_lost_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        TWO.all_reduce_sum(1.0)


def test_a_failure_of_one_rank_is_raised_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rank, 0, failed: this one raises its message, with its exit code."""

    def gather(parts: list[list[Any]], own: list[Any]) -> None:
        parts[0], parts[1] = [(0, "no such model", UsageError.exit_code)], own

    monkeypatch.setattr(dist, "all_gather_object", gather)
    with pytest.raises(PeerFailed, match="rank 0 failed: no such model") as found, TWO.raise_on_all_ranks():
        pass
    assert found.value.exit_code == 2
    with pytest.raises(DataError, match="mine"), TWO.raise_on_all_ranks():
        raise DataError("mine")


def test_ranks_that_do_not_meet_are_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def timeout(*_: object, **__: object) -> None:
        raise dist.DistNetworkError("The client socket has timed out\nsecond line")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", timeout)
    refused = pytest.raises(UsageError, match=r"rank 1 of 2[\s\S]*timed out[\s\S]*MASTER_ADDR")
    with refused, init_process_group(torch.device("cpu")):
        raise AssertionError("not reached")
