"""Agreement with TRL 1.16: `trl.experimental.gkd.GKDTrainer.generalized_jsd_loss`, loss and gradient, to 1e-6.

It is imported by a process of its own: it brings transformers' trainers, their warnings and their seconds.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

from thack.losses import jsd
from thack.targets.types import DenseTarget

CASES = [(beta, t) for beta in (0.0, 0.01, 0.1, 0.5, 0.9, 1.0) for t in (0.7, 1.0, 2.0)]
SHAPE, SEED = (3, 5, 37), 11

PEER = """
import json, sys
import torch
from trl.experimental.gkd import GKDTrainer

cases, shape, seed = json.loads(sys.argv[1])
generator = torch.Generator().manual_seed(seed)
student = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
teacher = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
labels = torch.randint(shape[2], shape[:2], generator=generator)
labels[0, :2] = labels[2, 3:] = -100
found = []
for beta, temperature in cases:
    leaf = student.clone().requires_grad_()
    loss = GKDTrainer.generalized_jsd_loss(leaf, teacher, labels, beta=beta, temperature=temperature)
    loss.backward()
    found.append([loss.item(), leaf.grad.flatten().tolist()])
print("FOUND", json.dumps(found))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None or importlib.util.find_spec("datasets") is None,
    reason="SKIPPED: TRL is not installed (make test installs it; by hand: the extra `trl`)",
)
def test_generalised_jsd_is_that_of_trl() -> None:
    asked = json.dumps([CASES, SHAPE, SEED])
    run = subprocess.run([sys.executable, "-c", PEER, asked], capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, run.stderr
    generator = torch.Generator().manual_seed(SEED)
    student = torch.randn(SHAPE, generator=generator, dtype=torch.float64) * 2
    teacher = torch.randn(SHAPE, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(SHAPE[2], SHAPE[:2], generator=generator)
    labels[0, :2] = labels[2, 3:] = -100
    valid = labels != -100
    for (beta, temperature), (value, gradient) in zip(CASES, json.loads(lines[0].removeprefix("FOUND")), strict=True):
        leaf = student.clone().requires_grad_()
        target = DenseTarget(log_probs_NV=torch.log_softmax(teacher[valid], 1))
        # TRL leaves T² out (pitfall 3), of the loss and of its gradient alike.
        loss = jsd(leaf[valid], target, beta=beta, temperature=temperature).mean() / temperature**2
        loss.backward()
        assert loss.item() == pytest.approx(value, abs=1e-6), (beta, temperature)
        assert leaf.grad is not None
        expected = torch.tensor(gradient, dtype=torch.float64).view(SHAPE)
        torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=1e-6)
