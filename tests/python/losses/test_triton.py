"""The Triton sweeps by Triton's interpreter, beside the same by torch.

The interpreter is chosen when a kernel is defined, so it runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERPRETED = """
import torch
from thack.losses import sweeps, triton_sweeps

generator = torch.Generator().manual_seed(0)
for vocab, scale in ((1, 1.0), (37, 0.5), (9000, 1.0)):  # one block, a ragged one, several
    logits = torch.randn(5, vocab, generator=generator) * 6
    logits[1, : vocab // 2] = float("-inf")
    logits[2] = float("-inf")
    logits[3] += 3e4  # far from 0, as some models have them
    ours, by_torch = triton_sweeps.tail_sums(logits, scale), sweeps.tail_sums_by_torch(logits, scale)
    for a, b in zip(ours, by_torch, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    factor = torch.tensor([0.5, -2.0, 0.0, 1.0, 1e-3])
    filled, expected = logits.clone(), logits.clone()
    triton_sweeps.fill_tail(filled, by_torch[0], factor, scale)
    sweeps.fill_tail_by_torch(expected, by_torch[0], factor, scale)
    torch.testing.assert_close(filled, expected, rtol=1e-5, atol=1e-7)
padded = torch.randn(4, 64, generator=generator)  # rows further apart than they are long
torch.testing.assert_close(
    triton_sweeps.tail_sums(padded[:, :50], 1.0), sweeps.tail_sums_by_torch(padded[:, :50], 1.0)
)
nan = torch.zeros(1, 10)
nan[0, 3] = float("nan")
assert torch.isnan(triton_sweeps.tail_sums(nan, 1.0)[1]).all()
print("equal")
"""


def test_the_kernels_equal_torch() -> None:
    pytest.importorskip("triton", reason="SKIPPED: triton is not installed (it comes with torch on Linux)")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[3] / "python")}
    run = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.strip() == "equal", run.stderr
