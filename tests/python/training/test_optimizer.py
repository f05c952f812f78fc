"""Learning rate, clipping, and which parameters decay."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from thack.config import OptimizerSettings
from thack.training.optimizer import build_optimizer, clip_gradients, learning_rate


def test_warm_up_then_constant_or_cosine() -> None:
    constant = OptimizerSettings(learning_rate=2.0, warmup_steps=4)
    assert [learning_rate(constant, step, 100) for step in (0, 1, 3, 4, 99)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    cosine = OptimizerSettings(learning_rate=2.0, warmup_steps=0, schedule="cosine")
    assert learning_rate(cosine, 0, 100) == 2.0
    assert learning_rate(cosine, 50, 100) == pytest.approx(1.0)
    assert learning_rate(cosine, 99, 100) == pytest.approx(1 + math.cos(math.pi * 0.99))


def test_clipping_scales_to_the_norm_and_tells_it() -> None:
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, 0.0) == pytest.approx(5.0)
    assert parameters[1].grad.item() == 4.0
    assert clip_gradients(parameters, 1.0) == pytest.approx(5.0)
    assert parameters[0].grad[0].item() == pytest.approx(0.6, rel=1e-5)
    assert clip_gradients(parameters, 2.0) == pytest.approx(1.0, rel=1e-5)


def test_vectors_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    groups = build_optimizer(model, OptimizerSettings(weight_decay=0.1)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (3, 0.0)]


def test_steps_are_those_of_torch_without_its_compiler() -> None:
    code = """
import sys, torch
from thack.config import OptimizerSettings
from thack.training.optimizer import Optimizer
def stepped(make):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = make(model)
    for _ in range(3):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step(0.01)
    return [*model.parameters()]
class Stock(Optimizer):
    def __init__(self, model, settings):
        super().__init__(model, settings)
        self.adamw = torch.optim.AdamW(self.adamw.param_groups, fused=True)
own = stepped(lambda model: Optimizer(model, OptimizerSettings()))
assert 'torch._dynamo' not in sys.modules, 'the compiler was imported'
torchs = stepped(lambda model: Stock(model, OptimizerSettings()))
assert 'torch._dynamo' in sys.modules, 'torch imports it no more: training/adamw.py can go'
assert all(map(torch.equal, own, torchs))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
