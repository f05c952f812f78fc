"""Gradients summed over ranks are those of one process, also where ranks used different parameters."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("case", "expected"),
    [("different", [3.0, 1.0, 2.0, None]), ("one rank has none", [1.0, 1.0, None, None])],
)
def test_idle_parameters(tmp_path: Path, case: str, expected: list[float | None]) -> None:
    port = free_port()
    ranks = []
    for rank in range(2):
        place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in place.items()}
        ranks.append(subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), case], env=environment))
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert [None if g is None else g.unique().tolist() for g in found] == [
            None if value is None else [value] for value in expected
        ]
