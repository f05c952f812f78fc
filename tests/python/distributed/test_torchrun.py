"""Jobs as torchrun starts them: two processes that meet by its address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from thack.config import ArchitectureSettings
from thack.data.tokenizer import Tokenizer
from thack.models.load import new_decoder

_PATIENT_S = 240  # for processes that import torch on a machine that does other things


def start(data: Path, out: Path, steps: int) -> subprocess.Popen[str]:
    """`distill` of a model into itself, on two ranks."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", "localhost:0", "-m", "thack"]
    model, file = str(data / "model"), str(data / "pairs.jsonl")
    line = ["distill", "--student", model, "--teacher", model, "--data", file, "--steps", str(steps), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, *launch, *line, "--batch-size", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def rows(out: Path) -> list[int]:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [row["step"] for row in found if "loss" in row]


def test_a_second_job_into_one_directory_is_refused_at_once(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["read the file"], 264)
    new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2, num_layers=1), tokenizer, 0).save(tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text(
        "".join(f'{{"prompt": "read {i}", "response": "the file {i}"}}\n' for i in range(8))
    )
    out = tmp_path / "run"
    first = start(tmp_path, out, 3_000)
    try:
        _wait_for(lambda: len(rows(out)) > 2, first)
        second = start(tmp_path, out, 3_000)
        _, told = second.communicate(timeout=_PATIENT_S)
        assert second.returncode != 0
        assert f"waiting for {out}, in use by process " in told
        assert f"error: `out` {out} is in use" in told or f"error: --out {out} is in use" in told
        assert first.poll() is None, "it runs on"
        before = rows(out)
        _wait_for(lambda: len(rows(out)) > len(before), first)
    finally:
        first.terminate()
        first.communicate(timeout=_PATIENT_S)
    steps = rows(out)
    assert steps == list(range(1, len(steps) + 1)), "no row is lost"
    assert json.loads((out / "STATUS.json").read_text())["state"] == "stopped"


def _wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + _PATIENT_S
    while not happened():
        assert process.poll() is None and time.monotonic() < ends, process.communicate()[1]
        time.sleep(0.2)
