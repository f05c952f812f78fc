"""What an experiment is, as data: three roles, three disjoint sets of prompts, and the axes of its grid."""

from __future__ import annotations

from dataclasses import dataclass, field

from thack.config.settings import (
    ArchitectureSettings,
    CheckpointSettings,
    DistillSettings,
    DTypeName,
    OptimizerSettings,
    SourceKind,
)
from thack.schema.targets import DivergenceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSettings:
    """A model and how it is fine-tuned on (prompt, response) pairs."""

    model: str = ""  # a directory under `models` to start from; empty: a new model from `architecture`
    train: bool = True  # false: the directory is used as it is
    architecture: ArchitectureSettings = field(default_factory=ArchitectureSettings)
    epochs: int = 8
    batch_size: int = 32
    validation_fraction: float = 0.0  # share of the prompts kept to choose the best epoch; 0: the last one
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1.5e-3, schedule="cosine", warmup_steps=50)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Values to combine with each other; an empty axis stays at the experiment's own value."""

    source: tuple[SourceKind, ...] = ()  # who writes the responses
    diversity: tuple[int, ...] = ()  # prompts ÷ so many, with as many generations each: constant size
    budget: tuple[int, ...] = ()  # generations per prompt
    fraction_online: tuple[float, ...] = ()  # share of fresh responses by the teacher; 0: offline, 1: online-teacher
    loss: tuple[DivergenceKind, ...] = ()
    teacher: tuple[str, ...] = ()  # sizes: a hidden width such as "128", or a directory under `models`
    student: tuple[str, ...] = ()  # likewise
    target: tuple[str, ...] = ()  # live, dense, top-k:64, sampled:4, live/renormalised:16, live/mixed:16+prior, …
    task: tuple[str, ...] = ()  # docstring, signature, continuation, or a file of that name under `data`


# What a cache may keep: exact, truncated, unbiased, and what could do better.
SINGLE_PASS = (
    "live",
    *(f"top-k:{k}" for k in (4, 16, 64, 128)),
    *(f"live/renormalised:{k}" for k in (4, 16, 64)),
    *(f"live/multinomial:{k}" for k in (4, 16)),
    *(f"sampled:{k}" for k in (4, 16)),
    *(f"live/mixed:{tail}" for tail in ("16+prior", "64+prior", "16+prior+4")),
)
MANY_EPOCHS = (
    "dense",
    *(f"top-k:{k}" for k in (4, 16, 64, 128)),
    *(f"live/renormalised:{k}" for k in (4, 16, 64)),
    *(f"sampled:{k}" for k in (4, 16, 64)),
    *("live/multinomial:16", "live/sampled:16+redraw"),
    *(f"live/mixed:{tail}" for tail in ("16+prior", "64+prior", "16+prior+4")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The paper's figures after F5, and what its text says, each a small product of axes."""

    F6: Axes = field(default_factory=lambda: Axes(diversity=(1, 2, 5)))
    F7: Axes = field(default_factory=lambda: Axes(budget=(1, 2, 3, 5)))
    F8: Axes = field(
        default_factory=lambda: Axes(
            task=("docstring", "signature", "continuation"), source=("offline", "online-teacher")
        )
    )
    fraction: Axes = field(default_factory=lambda: Axes(fraction_online=(0.0, 0.1, 0.5, 1.0)))
    loss: Axes = field(
        default_factory=lambda: Axes(loss=("forward_kl", "reverse_kl", "jsd"), source=("offline", "online-teacher"))
    )
    sizes: Axes = field(default_factory=lambda: Axes(student=("64", "96", "128"), source=("offline", "online-teacher")))
    target: Axes = field(default_factory=lambda: Axes(target=MANY_EPOCHS))
    once: Axes = field(default_factory=lambda: Axes(target=SINGLE_PASS, budget=(60,)))  # each response is seen once


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Other lengths for one task; where they are not given, the experiment's."""

    max_prompt_tokens: int | None = None
    max_response_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLengths:
    docstring: Lengths = field(default_factory=Lengths)
    signature: Lengths = field(default_factory=Lengths)
    continuation: Lengths = field(default_factory=lambda: Lengths(max_prompt_tokens=36))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSettings:
    """One controlled experiment. Every seed is a replication: splits, samples, weights and batch order."""

    name: str = "demo"
    title: str = "The controlled experiment"
    task: str = "docstring"  # docstring | signature | continuation (embedded), or a file of that name under `data`
    data: str = ""  # directory with <task>.jsonl or <task>.parquet, for tasks that are not embedded
    models: str = ""  # directory of model directories that the roles name
    tokenizer_size: int = 1024  # of the one that is trained where no role starts from a directory
    max_prompt_tokens: int = 24  # prompts beyond it are left out
    max_response_tokens: int = 28  # responses beyond it are cut, and lose their EOS
    lengths: TaskLengths = field(default_factory=TaskLengths)
    num_sft_prompts: int = 4000  # stage 1: the oracle answers them; teacher and student start from these
    num_distill_prompts: int = 512  # stage 2: the teacher is distilled into the student on these
    num_held_out_prompts: int = 256  # both metrics are measured on these
    oracle_seed: int = 0  # one oracle serves every seed
    oracle: RoleSettings = field(default_factory=RoleSettings)
    teacher: RoleSettings = field(default_factory=RoleSettings)
    student: RoleSettings = field(default_factory=RoleSettings)
    target: str = "dense"  # what the student sees of the teacher: from a cache, or live/… (as the axis)
    distill: DistillSettings = field(default_factory=lambda: DistillSettings(checkpoint=CheckpointSettings(keep=1)))
    dtype: DTypeName = (
        "auto"  # of all that trains, writes or scores but the evaluation set; auto: what the machine is fast in
    )
    seeds: tuple[int, ...] = (0,)
    figures: tuple[str, ...] = ("F4", "F5")  # F4 F5 F6 F7 F8 fraction loss sizes target once axes
    arms: tuple[SourceKind, ...] = ("offline", "online-teacher", "online-student")  # of F5
    axes: Axes = field(default_factory=Axes)  # a product of your own; runs beside `figures` if any axis is given
    groups: Groups = field(default_factory=Groups)
