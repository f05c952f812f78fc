"""Gradients summed over ranks are those of one process, also where ranks used different parameters."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from thack.errors import UsageError
from thack.training import sharding

SCRIPT = """
import sys
import torch
from thack.runtime.process_group import init_process_group
from thack.training.sharding import sum_gradients

with init_process_group(torch.device("cpu")) as group:
    rank = group.rank.rank
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (2, 3, 4, 5)]
    # Used by both ranks, by the first alone, by the second alone, by none.
    used = {0: [0, 1], 1: [0, 2]}[rank]
    sum((rank + 1) * parameters[i].sum() for i in used).backward()
    if sys.argv[2] == "one rank has none" and rank:
        parameters[0].grad = parameters[2].grad = None
    sum_gradients(parameters, group)
    torch.save([p.grad for p in parameters], f"{sys.argv[1]}/{rank}.pt")
"""

EXPERTS = """
import torch
from torch import nn
from thack.config import ParallelSettings
from thack.runtime.process_group import init_process_group
from thack.training import sharding

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleDict({str(i): nn.Linear(4, 4) for i in range(4)})

    def forward(self, x, chosen):
        return x + sum(self.experts[str(i)](x) for i in chosen)

class Student(nn.Module):
    device, tokenizer = torch.device("cpu"), object()

    def __init__(self):
        super().__init__()
        self.first, self.layers = nn.Linear(4, 4), nn.ModuleList(Block() for _ in range(2))

    def forward(self, x, chosen):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x, chosen)
        return x.square().sum()

CHOSEN = {0: (0, 1), 1: (2,)}
torch.manual_seed(0)
plain, inputs = Student(), {rank: torch.randn(3, 4) for rank in range(2)}
with init_process_group(torch.device("cpu")) as group:
    rank = group.rank.rank
    sum(plain(inputs[r], CHOSEN[r]) for r in range(2)).backward()
    expected = {name: p.grad for name, p in plain.named_parameters()}
    model = sharding.wrap_student(plain, ParallelSettings(strategy="fsdp"), group).model
    model(inputs[rank], CHOSEN[rank]).backward()
    for name, p in model.named_parameters():
        right = expected[name]
        found = p.grad.full_tensor()
        torch.testing.assert_close(found, torch.zeros_like(found) if right is None else right)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(script: str, *arguments: str) -> list[int]:
    """Exit codes of two ranks."""
    port = free_port()
    ranks = []
    for rank in range(2):
        place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in place.items()}
        ranks.append(subprocess.Popen([sys.executable, "-c", script, *arguments], env=environment))
    return [rank.wait(120) for rank in ranks]


@pytest.mark.parametrize(
    ("case", "expected"),
    [("different", [3.0, 1.0, 2.0, None]), ("one rank has none", [1.0, 1.0, None, None])],
)
def test_idle_parameters(tmp_path: Path, case: str, expected: list[float | None]) -> None:
    assert run(SCRIPT, str(tmp_path), case) == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert [None if g is None else g.unique().tolist() for g in found] == [
            None if value is None else [value] for value in expected
        ]


def test_sharded_experts_may_be_idle_on_a_rank() -> None:
    """The gradients are those of one process, where torch alone aborts."""
    from torch.distributed.fsdp import FSDPModule

    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        pytest.skip("this torch refuses experts: see below")
    assert run(EXPERTS) == [0, 0]


def test_a_torch_that_cannot_add_up_idle_experts_is_refused() -> None:
    old = torch.nn.Module()  # without the method of FSDPModule
    sharding._add_up_idle(old)
    old.experts = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(UsageError, match=r"needs torch 2\.15 for experts"):
        sharding._add_up_idle(old)
