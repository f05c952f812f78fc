"""What an experiment is, as data: three roles, three disjoint sets of prompts, and the axes of its grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from thack.config.commands import DistillSettings
from thack.config.shared import ArchitectureSettings, DTypeName, EvaluationSettings
from thack.config.training import CheckpointSettings, OptimizerSettings
from thack.schema.cross_tokenizer import PUBLISHED, CrossTokenizer
from thack.schema.experiment import FineTunedOn, Method, SourceKind
from thack.schema.fields import FRACTION, SEED, Above, AtLeast, Between, Each, Help
from thack.schema.targets import DivergenceKind

Figure = Literal[
    "all",
    "F4",
    "F5",
    "F6",
    "F7",
    "F8",
    "fraction",
    "loss",
    "sizes",
    "target",
    "once",
    "lora",
    "tokenizers",
    "consistency",
    "axes",
]

Size = Help('sizes: a width such as "128", a directory under `models`, or some of its layers: "smollm2:0,9,29"')


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSettings:
    """A model and how it is fine-tuned on (prompt, response) pairs."""

    model: Annotated[str, Help("directory under `models` to start from; empty: a new model from `architecture`")] = ""
    layers: Annotated[
        tuple[int, ...],
        Each(AtLeast(0)),
        Help("layers of the directory to keep, by their numbers from 0; empty: all of them"),
    ] = ()
    train: Annotated[bool, Help("fine-tune it; false: use the directory as it is")] = True
    architecture: Annotated[ArchitectureSettings, Help("shape of a new model")] = field(
        default_factory=ArchitectureSettings
    )
    epochs: Annotated[int, AtLeast(1), Help("passes over the pairs")] = 8
    batch_size: Annotated[int, AtLeast(1), Help("sequences per optimizer step")] = 32
    validation_fraction: Annotated[
        float,
        Between(0, 1, without_high=True),
        Help("share of the prompts kept to choose the best epoch (0 = the last epoch)"),
    ] = 0.0
    optimizer: Annotated[OptimizerSettings, Help("optimizer and learning rate")] = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1.5e-3, schedule="cosine", warmup_steps=50)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Values to combine with each other. An empty axis stays at the experiment's own value."""

    source: Annotated[tuple[SourceKind, ...], Help("who writes the responses")] = ()
    diversity: Annotated[
        tuple[int, ...],
        Each(AtLeast(1)),
        Help("divide the number of prompts by this, with as many more generations of each: constant size"),
    ] = ()
    budget: Annotated[tuple[int, ...], Each(AtLeast(1)), Help("generations per prompt")] = ()
    fraction_online: Annotated[
        tuple[float, ...],
        Each(FRACTION),
        Help("share of newly sampled responses of the teacher; 0: offline, 1: online-teacher"),
    ] = ()
    loss: Annotated[tuple[DivergenceKind, ...], Help("divergences")] = ()
    teacher: Annotated[tuple[str, ...], Size] = ()
    student: Annotated[tuple[str, ...], Size] = ()
    target: Annotated[
        tuple[str, ...],
        Help("live, dense, top-k:64, sampled:4, live/renormalised:16, live/mixed:16+prior and the like"),
    ] = ()
    num_prompts: Annotated[
        tuple[int, ...],
        Each(AtLeast(1)),
        Help("prompts of stage 2, before any division: the first of num_distill_prompts, for as many steps"),
    ] = ()
    method: Annotated[
        tuple[Method, ...],
        Help(
            "what trains the student: the divergence, responses alone, hard and soft targets, policy gradients, guard"
        ),
    ] = ()
    fine_tuned_on: Annotated[
        tuple[FineTunedOn, ...], Help("whose responses the student was fine-tuned on before its distillation")
    ] = ()
    lora_rank: Annotated[
        tuple[int, ...],
        Each(AtLeast(0)),
        Help("rank of an adapter that stage 2 trains in place of the student's weights (needs peft); 0: all weights"),
    ] = ()
    task: Annotated[
        tuple[str, ...],
        Help("docstring, signature, continuation, postfix, debian, or a file of that name under `data`"),
    ] = ()
    tokenizer: Annotated[
        tuple[str, ...],
        Help('of the student: ids of a new one on the task\'s text, or on source code: "512", "code:1024"'),
    ] = ()
    cross_tokenizer: Annotated[
        tuple[CrossTokenizer, ...],
        Help("losses of a student with another tokenizer; published ones with cross-entropy"),
    ] = ()
    learning_rate: Annotated[tuple[float, ...], Each(Above(0)), Help("peak learning rates of stage 2")] = ()


# Kinds of target: exact, truncated, unbiased, mixed.
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

    F6: Annotated[Axes, Help("fewer prompts, more generations of each")] = field(
        default_factory=lambda: Axes(diversity=(1, 2, 5))
    )
    F7: Annotated[Axes, Help("more generations per prompt")] = field(default_factory=lambda: Axes(budget=(1, 2, 3, 5)))
    F8: Annotated[Axes, Help("other tasks")] = field(
        default_factory=lambda: Axes(
            task=("docstring", "signature", "continuation"), source=("offline", "online-teacher")
        )
    )
    fraction: Annotated[Axes, Help("shares of newly sampled responses")] = field(
        default_factory=lambda: Axes(fraction_online=(0.0, 0.1, 0.5, 1.0))
    )
    loss: Annotated[Axes, Help("other divergences")] = field(
        default_factory=lambda: Axes(loss=("forward_kl", "reverse_kl", "jsd"), source=("offline", "online-teacher"))
    )
    sizes: Annotated[Axes, Help("other sizes of the student")] = field(
        default_factory=lambda: Axes(student=("64", "96", "128"), source=("offline", "online-teacher"))
    )
    target: Annotated[Axes, Help("kinds of target, over many epochs")] = field(
        default_factory=lambda: Axes(target=MANY_EPOCHS)
    )
    once: Annotated[Axes, Help("kinds of target, each response seen once")] = field(
        default_factory=lambda: Axes(target=SINGLE_PASS, budget=(60,))
    )
    lora: Annotated[Axes, Help("ranks of an adapter")] = field(default_factory=lambda: Axes(lora_rank=(0, 2, 8, 32)))
    tokenizers: Annotated[
        Axes, Help("losses of students with other tokenizers, the cross-entropy alone, and the teacher's tokenizer")
    ] = field(
        default_factory=lambda: Axes(
            tokenizer=("code:1024", "512"),
            cross_tokenizer=("cell", "cell-next", *PUBLISHED),
            target=("dense", "sampled:16", "sampled:4"),
        )
    )
    consistency: Annotated[Axes, Help("whether the teacher that is distilled wrote what the student was tuned on")] = (
        field(
            default_factory=lambda: Axes(
                method=("distill", "policy-gradient", "offline-policy-gradient"), fine_tuned_on=("oracle", "teacher")
            )
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Other lengths for one task (0 = the experiment's)."""

    max_prompt_tokens: Annotated[int, AtLeast(0), Help("longest prompt of this task (0 = the experiment's)")] = 0
    max_response_tokens: Annotated[int, AtLeast(0), Help("longest response of this task (0 = the experiment's)")] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLengths:
    """Lengths of the embedded tasks, where they differ from the experiment's."""

    docstring: Annotated[Lengths, Help("signature → docstring")] = field(default_factory=Lengths)
    signature: Annotated[Lengths, Help("docstring → signature")] = field(default_factory=Lengths)
    continuation: Annotated[Lengths, Help("beginning → continuation")] = field(
        default_factory=lambda: Lengths(max_prompt_tokens=36)
    )
    postfix: Annotated[Lengths, Help("statement → its postfix form")] = field(default_factory=Lengths)
    debian: Annotated[Lengths, Help("question about a package of Debian")] = field(
        default_factory=lambda: Lengths(max_prompt_tokens=96)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSettings:
    """One controlled experiment. Every seed is a replication: splits, samples, weights and batch order."""

    name: Annotated[str, Help("name of the experiment")] = "demo"
    title: Annotated[str, Help("title of its report")] = "The controlled experiment"
    task: Annotated[
        str,
        Help("docstring, signature, continuation, postfix or debian (embedded), or a file of that name under `data`"),
    ] = "docstring"
    data: Annotated[str, Help("directory with TASK.jsonl or TASK.parquet, for tasks that are not embedded")] = ""
    models: Annotated[str, Help("directory of the model directories that the roles name")] = ""
    tokenizer_size: Annotated[
        int, AtLeast(1), Help("vocabulary size of the tokenizer, trained where no role starts from a directory")
    ] = 1024
    max_prompt_tokens: Annotated[int, AtLeast(1), Help("longer prompts are dropped")] = 24
    max_response_tokens: Annotated[
        int, AtLeast(1), Help("longer responses are cut, and lose their end-of-response token")
    ] = 28
    lengths: Annotated[TaskLengths, Help("lengths by task")] = field(default_factory=TaskLengths)
    num_sft_prompts: Annotated[
        int, AtLeast(1), Help("stage 1: the oracle answers them; teacher and student are fine-tuned on the answers")
    ] = 4000
    num_distill_prompts: Annotated[
        int, AtLeast(1), Help("stage 2: the teacher is distilled into the student on these")
    ] = 512
    num_held_out_prompts: Annotated[int, AtLeast(1), Help("golden and proxy metrics are measured on these")] = 256
    oracle_seed: Annotated[int, SEED, Help("seed of the oracle, which all seeds share")] = 0
    oracle: Annotated[RoleSettings, Help("the oracle")] = field(default_factory=RoleSettings)
    teacher: Annotated[RoleSettings, Help("the teacher")] = field(default_factory=RoleSettings)
    student: Annotated[RoleSettings, Help("the student")] = field(default_factory=RoleSettings)
    target: Annotated[str, Help("what is kept of the teacher's distribution; values as of axes.target")] = "dense"
    distill: Annotated[DistillSettings, Help("stage 2")] = field(
        default_factory=lambda: DistillSettings(
            checkpoint=CheckpointSettings(keep=1), evaluation=EvaluationSettings(max_share=1.0)
        )
    )
    dtype: Annotated[
        DTypeName, Help("precision of everything but the evaluation set; auto: what the device is fast in")
    ] = "auto"
    seeds: Annotated[tuple[int, ...], Each(SEED), Help("replications")] = (0,)
    half_width: Annotated[
        float,
        Between(0, 1, without_low=True),
        Help("wanted of a claim: its mean ± this share over seeds; a dry run says how many seeds that takes"),
    ] = 0.02
    figures: Annotated[
        tuple[Figure, ...], Help("figures to make; all: every one but lora, tokenizers, consistency and axes")
    ] = (
        "F4",
        "F5",
    )
    arms: Annotated[tuple[SourceKind, ...], Help("arms of F5")] = ("offline", "online-teacher", "online-student")
    axes: Annotated[Axes, Help("a product of your own; runs beside `figures` if any axis is given")] = field(
        default_factory=Axes
    )
    groups: Annotated[Groups, Help("axes of each figure")] = field(default_factory=Groups)


#: Keys below `distill` that the grid decides cell by cell, and where they are set instead.
DECIDED: Mapping[str, str] = {
    "seed": "seeds",
    "dtype": "dtype",
    "loss.cross_tokenizer": "axes.cross_tokenizer",
    "source.kind": "arms or axes.source",
    "source.online_fraction": "axes.fraction_online",
    "target": "target or axes.target",
    "data": "task, data, max_prompt_tokens, max_response_tokens or num_distill_prompts",
    "student": "student.model",
    "teacher": "teacher.model",
    "oracle": "oracle.model",
    "judge": "oracle.model",
    "human_references": "oracle.model",
    "eval_data": "num_held_out_prompts",
    "cache": "target",
    "out": "`out`",
}
