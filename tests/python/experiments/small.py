"""A grid that takes seconds: a corpus of a hundred pairs, models of width 16."""

from __future__ import annotations

import json
from pathlib import Path

from thack.config.experiment import ExperimentSettings
from thack.experiments.recipe import load_recipe

SETS = [
    "task=sums",
    "tokenizer_size=270",
    "num_sft_prompts=24",
    "num_distill_prompts=12",
    "num_held_out_prompts=8",
    "max_response_tokens=8",
    *(f"{role}.epochs=1" for role in ("oracle", "teacher", "student")),
    *(f"{role}.architecture.num_layers=1" for role in ("oracle", "teacher", "student")),
    "oracle.architecture.hidden_size=24",
    "teacher.architecture.hidden_size=16",
    "student.architecture.hidden_size=8",
    "distill.epochs=3",
    "distill.batch_size=4",
    "distill.evaluation.count=7",
    "distill.evaluation.bootstrap=100",
]


def write_sums(directory: Path) -> Path:
    """A task that nobody ships: prompts and their sums."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"{a} + {b} =", "response": str(a + b)} for a in range(10) for b in range(10)]
    (directory / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def settings(data: Path, *sets: str) -> ExperimentSettings:
    return load_recipe("quick", [*SETS, f"data={data}", *sets])
