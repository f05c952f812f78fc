"""Gradients of two ranks that use different parameters: what each finds, for the tests of test_distributed.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from thack.config import ParallelSettings
from thack.runtime.process_group import ProcessGroup
from thack.training import sharding

ADDS_UP_IDLE = hasattr(FSDPModule, "set_reduce_scatter_unused_params")
CHOSEN = ((0, 1), (2,))  # experts, by rank


def run(out: Path, group: ProcessGroup) -> None:
    """Write what this rank finds."""
    out.mkdir(exist_ok=True)
    for case in ("different", "one has none"):
        torch.save(summed(case, group), out / f"{case} {group.rank.rank}.pt")
    if ADDS_UP_IDLE:
        torch.save(of_experts(group), out / f"experts {group.rank.rank}.pt")


def summed(case: str, group: ProcessGroup) -> list[Tensor | None]:
    """Of parameters that are used by both ranks, by the first alone, by the second alone, by none."""
    rank = group.rank.rank
    parameters = [nn.Parameter(torch.ones(n)) for n in (2, 3, 4, 5)]
    torch.stack([(rank + 1) * parameters[i].sum() for i in ((0, 1), (0, 2))[rank]]).sum().backward()
    if case == "one has none" and rank:
        parameters[0].grad = parameters[2].grad = None
    sharding.sum_gradients(parameters, group)
    return [p.grad for p in parameters]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({str(i): nn.Linear(4, 4) for i in range(4)})

    def forward(self, x: Tensor, chosen: tuple[int, ...]) -> Tensor:
        return x + torch.stack([self.experts[str(i)](x) for i in chosen]).sum(0)


class Student(nn.Module):
    device, tokenizer = torch.device("cpu"), object()

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layers = nn.Linear(4, 4), nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: Tensor, chosen: tuple[int, ...]) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x, chosen)
        return x.square().sum()


def of_experts(group: ProcessGroup) -> list[tuple[Tensor, Tensor]]:
    """Of a sharded student whose ranks choose different experts, each beside that of one process."""
    torch.manual_seed(0)
    plain, inputs = Student(), [torch.randn(3, 4) for _ in CHOSEN]
    torch.stack([plain(x, chosen) for x, chosen in zip(inputs, CHOSEN, strict=True)]).sum().backward()
    alone = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in plain.named_parameters()}
    rank = group.rank.rank
    student: Any = plain
    model: Any = sharding.wrap_student(student, ParallelSettings(strategy="fsdp"), group).model
    model(inputs[rank], CHOSEN[rank]).backward()
    return [(p.grad.full_tensor(), alone[name]) for name, p in model.named_parameters()]
