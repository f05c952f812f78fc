"""A tiny world on disk for runs from end to end: three models, an evaluation set, a cache, prompts."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thack.cache.capture.job import capture
from thack.config import (
    CacheSettings,
    DataSettings,
    DistillSettings,
    EvaluationSettings,
    OptimizerSettings,
    SourceSettings,
)
from thack.data import Record
from thack.evaluation import EvalSet, References
from thack.runtime.progress import SILENT
from thack.schema.metric_rows import GuardRow, MetricsRow
from thack.training.run_directory import RunDirectory

from .small import model

DATA = DataSettings(max_prompt_tokens=24, max_response_tokens=7)


def records(count: int, start: int = 0) -> list[Record]:
    return [
        Record(prompt_id=f"id{i}", prompt=f"def f{i}(x)", response=f"give {i % 3} back")
        for i in range(start, start + count)
    ]


def write(path: Path, found: list[Record]) -> Path:
    rows = [{"id": r.prompt_id, "prompt": r.prompt, "response": r.response} for r in found]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build_world(root: Path, start: int = 0, seed: int = 0) -> Path:
    """oracle/, teacher/, student/ (random, but sure of themselves), evaluation set/, cache/, prompts.jsonl."""
    models = {role: model(seed + i) for i, role in enumerate(("oracle", "teacher", "student"))}
    for role, member in models.items():
        with torch.no_grad():
            member.lm_head.weight.mul_(20 if role != "student" else 1)
        member.save(root / role)
    references = References(teacher=models["teacher"], oracle=models["oracle"])
    EvalSet.from_records(records(6, 100)).with_responses(references, max_new_tokens=7).save(root / "eval_set")
    write(root / "prompts.jsonl", records(10, start))
    data = replace(DATA, path=str(root / "prompts.jsonl"))
    capture(
        CacheSettings(
            out=root / "cache", teacher=str(root / "teacher"), data=data, kind="dense", generate=True, device="cpu"
        ),
        SILENT,
    )
    return root


def distill_settings(world: Path, out: Path, kind: Any = "offline", **changes: Any) -> DistillSettings:
    settings = DistillSettings(
        out=out,
        student=str(world / "student"),
        teacher=str(world / "teacher"),
        oracle=str(world / "oracle"),
        eval_data=str(world / "eval_set"),
        cache=str(world / "cache") if kind == "offline" else "",
        data=replace(DATA, path="" if kind == "offline" else str(world / "prompts.jsonl")),
        source=SourceSettings(kind=kind, refresh_steps=3),
        epochs=2,
        batch_size=2,
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=2),
        evaluation=EvaluationSettings(count=3, bootstrap=50),
        device="cpu",
    )
    return replace(settings, **changes)


def signal_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM once the row of this step is logged."""
    append = RunDirectory.append

    def wrapped(run: RunDirectory, row: MetricsRow | GuardRow) -> None:
        append(run, row)
        if row.step == step and isinstance(row, MetricsRow) and row.event == "train":
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(RunDirectory, "append", wrapped)
