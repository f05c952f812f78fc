"""Weights of 16 bits move as float32 ones do, though each update alone would round to nothing."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from thack.config import OptimizerSettings
from thack.training.checkpoint import optimizer_tensors, restore_optimizer
from thack.training.compensated import CompensatedAdamW
from thack.training.optimizer import build_optimizer
from thack.training.trainer import Trainer

SETTINGS = OptimizerSettings(learning_rate=1e-4, weight_decay=0.1)


class Net(nn.Module):
    """A matrix and a norm's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(16)
        self.matrix = nn.Linear(16, 16, bias=False)


def start(dtype: torch.dtype) -> Net:
    torch.manual_seed(0)
    return Net().bfloat16().to(dtype)


def gradients(steps: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(s, generator=generator) + 0.5 for s in ((16,), (16, 16))] for _ in range(steps)]


def train(net: Net, optimizer: torch.optim.Optimizer, steps: list[list[Tensor]]) -> None:
    for given in steps:
        for parameter, gradient in zip(net.parameters(), given, strict=True):
            parameter.grad = gradient.bfloat16().to(parameter.dtype)
        optimizer.step()


def test_weights_move_as_in_float32() -> None:
    wide, narrow, before = start(torch.float32), start(torch.bfloat16), start(torch.float32)
    train(wide, torch.optim.AdamW(build_optimizer(wide, SETTINGS).param_groups, fused=False), gradients(100))
    optimizer = build_optimizer(narrow, SETTINGS)
    assert isinstance(optimizer, CompensatedAdamW)
    train(narrow, optimizer, gradients(100))
    for name in ("norm.weight", "matrix.weight"):
        old, right = before.get_parameter(name).detach(), wide.get_parameter(name).detach()
        parameter = narrow.get_parameter(name)
        rounded = parameter.detach()
        found = rounded.float() + optimizer.state[parameter]["weight_rest"].float()
        assert float((right - old).norm()) > 0.003 * right.numel() ** 0.5, "they move at all"
        assert float((found - right).norm()) < 0.03 * float((right - old).norm())
        assert float((rounded.float() - right).abs().max()) <= 0.004 * float(right.abs().max().clamp_min(1))
    assert not torch.equal(narrow.norm.weight.float(), before.norm.weight), "alone, each update rounds to nothing"


def test_the_formula_is_adamw() -> None:
    """In float32 there is no rest, and the steps are torch's."""
    ours, theirs = start(torch.float32), start(torch.float32)
    train(ours, CompensatedAdamW(ours.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1), gradients(20))
    plain = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    train(theirs, plain, gradients(20))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("at", [1, 13])
def test_a_resumed_run_continues_to_the_bit(at: int, tmp_path: Path) -> None:
    whole, parts, steps = start(torch.bfloat16), start(torch.bfloat16), gradients(20)
    optimizer = build_optimizer(whole, SETTINGS)
    train(whole, optimizer, steps)
    train(parts, first := build_optimizer(parts, SETTINGS), steps[:at])
    save_file(dict(optimizer_tensors(parts, first)), tmp_path / "optimizer.safetensors")
    second = build_optimizer(parts, SETTINGS)
    restore_optimizer(parts, second, tmp_path)
    train(parts, second, steps[at:])
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(optimizer.state[one]["weight_rest"], second.state[other]["weight_rest"])


def test_the_learning_rate_is_blamed_only_where_it_is_at_fault() -> None:
    trainer = SimpleNamespace(step=4, run=SimpleNamespace(checkpoints="c"))
    named = Trainer._diverged(trainer, [], math.inf, 1.5)  # type: ignore[arg-type]
    assert named.hint is not None and "no mass" in named.hint and "learning_rate" not in named.hint
    for loss, norm in ((math.nan, math.nan), (math.inf, math.inf), (3.0, math.nan)):
        assert "learning_rate" in str(Trainer._diverged(trainer, [], loss, norm))  # type: ignore[arg-type]
