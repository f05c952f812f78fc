"""What an experiment is, as data: three roles, three disjoint sets of prompts, and the arms to compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from thack.config.settings import (
    ArchitectureSettings,
    CheckpointSettings,
    DistillSettings,
    OptimizerSettings,
    SourceKind,
    TargetKind,
)

Task = Literal["docstring", "signature", "continuation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSettings:
    """A native decoder and how it is fine-tuned on (prompt, response) pairs."""

    architecture: ArchitectureSettings = field(default_factory=ArchitectureSettings)
    epochs: int = 8
    batch_size: int = 32
    validation_fraction: float = 0.0  # share of the prompts kept to choose the best epoch; 0: the last one
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1.5e-3, schedule="cosine", warmup_steps=50)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSettings:
    """One controlled experiment. Every seed is a replication: splits, samples, weights and batch order."""

    name: str = "demo"
    title: str = "The controlled experiment"
    task: Task = "docstring"  # which pairs of the embedded corpus
    tokenizer_size: int = 1024
    max_prompt_tokens: int = 24  # prompts beyond it are left out
    max_response_tokens: int = 28  # responses beyond it are cut, and lose their EOS
    num_sft_prompts: int = 4000  # stage 1: the oracle answers them; teacher and student start from these
    num_distill_prompts: int = 512  # stage 2: the teacher is distilled into the student on these
    num_held_out_prompts: int = 256  # both metrics are measured on these
    oracle_seed: int = 0  # one oracle serves every seed
    oracle: RoleSettings = field(default_factory=RoleSettings)
    teacher: RoleSettings = field(default_factory=RoleSettings)
    student: RoleSettings = field(default_factory=RoleSettings)
    target: TargetKind = "dense"  # in the offline cache; the online arms score with the live teacher
    distill: DistillSettings = field(default_factory=lambda: DistillSettings(checkpoint=CheckpointSettings(keep=2)))
    arms: tuple[SourceKind, ...] = ("offline", "online-teacher", "online-student")
    seeds: tuple[int, ...] = (0,)
