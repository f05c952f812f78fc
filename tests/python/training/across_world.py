"""Teacher and student with different tokenizers, on disk: for runs from end to end."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from thack.cache.capture.job import capture
from thack.config import ArchitectureSettings, CacheSettings, DistillSettings
from thack.cross_tokenizer import Cells, build_cells, read_bpe
from thack.data.tokenizer import Tokenizer
from thack.models.load import new_decoder
from thack.runtime.progress import SILENT

from .small import rows
from .world import DATA, distill_settings, records, write


@cache
def compared() -> Cells:
    return build_cells(read_bpe(theirs()), read_bpe(other()))


SIZE = ArchitectureSettings(hidden_size=16, num_layers=2, num_heads=2, max_positions=64)


@cache
def theirs() -> Tokenizer:
    return Tokenizer.train(["dive back, five of them: give some def of it"] * 9, 282)


@cache
def other() -> Tokenizer:
    return Tokenizer.train([f"def f{i}(x) give {i % 3} back" for i in range(9)], 280)


def build_across(root: Path) -> Path:
    """teacher/, oracle/ and student/ with another tokenizer, prompts with responses, and a cache of each kind."""
    teacher = new_decoder(SIZE, theirs(), 1)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)
    teacher.save(root / "teacher")
    new_decoder(SIZE, other(), 2).save(root / "student")
    new_decoder(SIZE, other(), 3).save(root / "oracle")
    write(root / "prompts.jsonl", records(10))
    write(root / "held_out.jsonl", records(4))
    data = replace(DATA, path=str(root / "prompts.jsonl"), max_response_tokens=30)
    kinds: dict[str, dict[str, Any]] = {"dense": {}, "top-k": {"top_k": 16}, "sampled": {"sampled": 8}}
    for kind, keeps in kinds.items():
        given = CacheSettings(out=root / kind, teacher=str(root / "teacher"), data=data, device="cpu")
        capture(replace(given, kind=kind, **keeps), SILENT)  # type: ignore[arg-type]
    return root


def across(world: Path, out: Path, kind: str, **changes: Any) -> DistillSettings:
    cached = "" if kind == "live" else str(world / kind)
    data = replace(DATA, path=str(world / "prompts.jsonl"), max_response_tokens=30)
    given: dict[str, Any] = {"oracle": "", "eval_data": "", "teacher": "", "cache": cached} | changes
    if kind == "live":
        given |= {"teacher": str(world / "teacher"), "data": data}
    return distill_settings(world, out, "offline", **given)


def losses(path: Path) -> list[float]:
    return [float(row["loss"]) for row in rows(path) if row["event"] == "train"]


def evaluations(path: Path) -> list[dict[str, Any]]:
    """The columns of each evaluation, without its times."""
    found = [row for row in rows(path) if row["event"] == "evaluation"]
    return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in found]
