"""The settings of the commands that train, generate, capture and evaluate. Field names are the keys users type."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from thack.config.shared import (
    ArchitectureSettings,
    DataSettings,
    Device,
    DType,
    EvaluationSettings,
    LoadSettings,
    RouterLoss,
    SamplingSettings,
    Seed,
    ServerSettings,
    Trackers,
)
from thack.config.training import (
    CacheOverlap,
    CheckpointSettings,
    GuardSettings,
    LoraSettings,
    LossSettings,
    MemorySettings,
    OptimizerSettings,
    ParallelSettings,
    SourceSettings,
    TargetSettings,
)
from thack.schema.fields import Above, AtLeast, Between, Each, Help
from thack.schema.targets import CachedKind, ProjectedFormat

Run = Annotated[Path, Help("directory of the run; the same command resumes it")]
Judge = Annotated[
    str, Help("a stronger model in the oracle's role, where there is none; its columns start with judge/")
]
HumanReferences = Annotated[
    bool, Help("a new evaluation set keeps the responses of its file; their columns start with human/")
]
Balance = Annotated[
    RouterLoss,
    Help("mixture of experts: add the model's balancing loss of routers; auto: where its config.json asks for it"),
]
Lora = Annotated[LoraSettings, Help("an adapter instead of all weights")]
Parallel = Annotated[ParallelSettings, Help("several processes")]
Memory = Annotated[MemorySettings, Help("memory and speed")]
Checkpoint = Annotated[CheckpointSettings, Help("checkpoints")]
Evaluation = Annotated[EvaluationSettings, Help("evaluations")]
References = Annotated[LoadSettings, Help("how teacher, oracle and judge are loaded")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSettings:
    """Train a model on prompts with responses."""

    out: Run = Path("runs/sft")
    model: Annotated[str, Help("model directory to start from; empty: a new decoder from `architecture`")] = ""
    tokenizer: Annotated[str, Help("new decoder: directory with tokenizer.json; empty: train one on the data")] = ""
    tokenizer_size: Annotated[int, AtLeast(1), Help("vocabulary size of a tokenizer trained on the data")] = 1024
    architecture: Annotated[ArchitectureSettings, Help("shape of a new decoder")] = field(
        default_factory=ArchitectureSettings
    )
    data: Annotated[DataSettings, Help("prompts and responses")] = field(default_factory=DataSettings)
    validation_fraction: Annotated[
        float, Between(0, 1, without_high=True), Help("share of prompts (by hash of id) kept for validation (0 = none)")
    ] = 0.05
    epochs: Annotated[int, AtLeast(1), Help("passes over the data")] = 8
    batch_size: Annotated[int, AtLeast(1), Help("sequences per optimizer step over all ranks")] = 32
    optimizer: Annotated[OptimizerSettings, Help("optimizer and learning rate")] = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1.5e-3, schedule="cosine", warmup_steps=50)
    )
    checkpoint: Checkpoint = field(default_factory=CheckpointSettings)
    tracker: Trackers = ()
    lora: Lora = field(default_factory=LoraSettings)
    router_loss: Balance = "auto"
    parallel: Parallel = field(default_factory=ParallelSettings)
    memory: Memory = field(default_factory=MemorySettings)
    seed: Seed = 0
    dtype: DType = "auto"
    device: Device = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """Write an adapter and its base model as one model."""

    model: Annotated[str, Help("directory of the adapter: a run with `lora.rank`, or what peft saved")] = ""
    out: Annotated[Path, Help("directory of the merged model")] = Path("merged")
    full_hash: Annotated[bool, Help("print a fingerprint of every number of the result, not of a sample")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """Upload a model with its card to the Hugging Face hub, and on request its cache with a card of its own."""

    model: Annotated[str, Help("run, or directory of a model with a README.md")] = ""
    to: Annotated[str, Help("repository of the model, ORG/NAME; it is made if need be")] = ""
    merge: Annotated[bool, Help("push an adapter and its base model as one model")] = False
    cache: Annotated[str, Help("also push this cache, as a data set; it holds prompts and responses as ids")] = ""
    cache_to: Annotated[str, Help("repository of the cache; empty: that of the model with -cache behind it")] = ""
    public: Annotated[bool, Help("let anyone read it; else a new repository is private, and a public one refused")] = (
        False
    )
    revision: Annotated[str, Help("branch; empty: the main one")] = ""
    endpoint: Annotated[str, Help("address of the hub; empty: the one that HF_ENDPOINT names, or the public one")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowSettings:
    """Show how data becomes token ids for a model."""

    model: Annotated[str, Help("directory with the tokenizer that encodes the data")] = ""
    data: Annotated[DataSettings, Help("prompts and responses")] = field(default_factory=DataSettings)
    count: Annotated[int, AtLeast(1), Help("sequences that are shown; all are counted")] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSettings:
    """Write responses to prompts with a model."""

    out: Annotated[Path, Help("directory of responses.jsonl and its manifest")] = Path("responses")
    model: Annotated[str, Help("directory of the model that writes")] = ""
    load: Annotated[LoadSettings, Help("how the model is loaded")] = field(default_factory=LoadSettings)
    data: Annotated[DataSettings, Help("prompts")] = field(default_factory=DataSettings)
    samples: Annotated[int, AtLeast(1), Help("responses per prompt: the generation budget")] = 1
    sampling: Annotated[SamplingSettings, Help("how responses are sampled")] = field(default_factory=SamplingSettings)
    batch_size: Annotated[int, AtLeast(1), Help("responses generated at a time; they do not depend on it")] = 256
    seed: Seed = 0
    dtype: DType = "auto"
    device: Device = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """Score responses with a teacher, and store its distributions."""

    out: Annotated[Path, Help("directory of the cache; the same command resumes it")] = Path("cache")
    teacher: Annotated[str, Help("directory of the teacher")] = ""
    load: Annotated[LoadSettings, Help("how the teacher is loaded")] = field(default_factory=LoadSettings)
    server: Annotated[ServerSettings, Help("a teacher behind a server, instead of `teacher`")] = field(
        default_factory=ServerSettings
    )
    hidden_states: Annotated[
        str,
        Help("directory of the teacher's hidden states, as an inference engine wrote them; empty: it computes them"),
    ] = ""
    head_only: Annotated[
        bool,
        Help("of hidden states: read the teacher's final norm and head alone; whose states they are is not compared"),
    ] = False
    data: Annotated[DataSettings, Help("prompts and responses")] = field(default_factory=DataSettings)
    kind: Annotated[
        CachedKind,
        Help(
            "what is stored of each distribution; on the command line `top_k`, `sampled` or `student` alone implies it"
        ),
    ] = "top-k"
    top_k: Annotated[int, AtLeast(1), Help("top-k: most likely ids per token, kept with the mass of all others")] = 64
    sampled: Annotated[
        int, AtLeast(1), Help("sampled: ids drawn per token, with weights whose expectation is the teacher")
    ] = 16
    student: Annotated[
        str, Help("projected: directory of the student, whose head is to stay frozen; `cache probe` measures by it too")
    ] = ""
    projected: Annotated[
        ProjectedFormat, Help("projected: number format of the stored vector; float8 has a scale for each token")
    ] = "float16"
    temperatures: Annotated[
        tuple[float, ...], Each(Above(0)), Help("top-k: also store the log of the tail mass at these temperatures")
    ] = ()
    generate: Annotated[bool, Help("sample the responses from the teacher and score them in the same pass")] = False
    samples: Annotated[int, AtLeast(1), Help("responses per prompt, with `generate`")] = 1
    sampling: Annotated[SamplingSettings, Help("how responses are sampled, with `generate`")] = field(
        default_factory=SamplingSettings
    )
    epochs: Annotated[int, AtLeast(1), Help("planned passes over the cache; the recommended kind depends on it")] = 1
    batch_size: Annotated[int, AtLeast(1), Help("sequences per forward pass; part of the cache's plan")] = 32
    shard_tokens: Annotated[int, AtLeast(1), Help("most response tokens in a shard")] = 1 << 20
    shard_bytes: Annotated[int, AtLeast(1), Help("most bytes in a shard")] = 1 << 28
    seed: Seed = 0
    dtype: DType = "auto"
    device: Device = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """Train a student to match a teacher, from a cache or live."""

    out: Run = Path("runs/distill")
    student: Annotated[str, Help("directory of the model to train")] = ""
    teacher: Annotated[str, Help("a live teacher; needed for online responses, and for the proxy metric")] = ""
    server: Annotated[ServerSettings, Help("a teacher behind a server scores given responses, each once")] = field(
        default_factory=ServerSettings
    )
    cache: Annotated[
        str | tuple[str, ...], Help("take targets from this cache, or from several, instead of a live teacher")
    ] = ""
    cache_weights: Annotated[
        tuple[float, ...],
        Each(AtLeast(0)),
        Help("mix the distributions of the caches by these weights, one for each; empty: each sequence has one cache"),
    ] = ()
    cache_weight_key: Annotated[
        str, Help("key or column of `data.path` with weights of a prompt's own, a list of one for each cache")
    ] = ""
    cache_overlap: Annotated[
        CacheOverlap,
        Help("a prompt in several caches that are not mixed: refuse; train on the first cache's, or on all"),
    ] = "refuse"
    check_alignment: Annotated[
        bool, Help("refuse a cache whose rows fit the text better one token earlier or later; false: only warn")
    ] = True
    data: Annotated[DataSettings, Help("prompts, offline with responses; a cache must cover them")] = field(
        default_factory=DataSettings
    )
    oracle: Annotated[str, Help("directory of the oracle, for the golden metric")] = ""
    judge: Judge = ""
    load: References = field(default_factory=LoadSettings)
    eval_data: Annotated[
        str, Help("held-out prompts: a frozen evaluation set, or a JSONL from which one is made in `out`")
    ] = ""
    human_references: HumanReferences = False
    source: Annotated[SourceSettings, Help("who writes the responses, and when")] = field(
        default_factory=SourceSettings
    )
    target: Annotated[TargetSettings, Help("what is kept of a live teacher's distribution")] = field(
        default_factory=TargetSettings
    )
    loss: Annotated[LossSettings, Help("what is minimised")] = field(default_factory=LossSettings)
    baseline: Annotated[
        Literal["none", "sft"],
        Help("sft: afterwards also fine-tune on the same responses, steps and rate, and say what distillation gained"),
    ] = "none"
    guard: Annotated[GuardSettings, Help("act on memorisation during the run")] = field(default_factory=GuardSettings)
    epochs: Annotated[int, AtLeast(1), Help("passes over the data")] = 1
    steps: Annotated[int, AtLeast(0), Help("stop after this many optimizer steps (0 = after `epochs`)")] = 0
    batch_size: Annotated[int, AtLeast(1), Help("sequences per optimizer step over all ranks")] = 32
    micro_batch_size: Annotated[
        int, AtLeast(0), Help("sequences per forward pass (0 = batch_size: no gradient accumulation)")
    ] = 0
    optimizer: Annotated[OptimizerSettings, Help("optimizer and learning rate")] = field(
        default_factory=OptimizerSettings
    )
    evaluation: Evaluation = field(default_factory=EvaluationSettings)
    checkpoint: Checkpoint = field(default_factory=CheckpointSettings)
    tracker: Trackers = ()
    lora: Lora = field(default_factory=LoraSettings)
    router_loss: Balance = "auto"
    parallel: Parallel = field(default_factory=ParallelSettings)
    memory: Memory = field(default_factory=MemorySettings)
    profile: Annotated[bool, Help("log the time of data, forward, loss, backward and optimizer")] = False
    seed: Seed = 0
    dtype: DType = "auto"
    device: Device = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """Measure the golden and proxy metrics of a student on held-out prompts."""

    out: Annotated[Path, Help("JSON file to write")] = Path("evaluation.json")
    student: Annotated[str, Help("directory of the model to evaluate")] = ""
    teacher: Annotated[str, Help("directory of its teacher, for the proxy metric")] = ""
    oracle: Annotated[str, Help("directory of the oracle, for the golden metric")] = ""
    judge: Judge = ""
    load: References = field(default_factory=LoadSettings)
    eval_data: Annotated[
        str, Help("held-out prompts: a frozen evaluation set, or a JSONL from which one is made beside `out`")
    ] = ""
    human_references: HumanReferences = False
    data: Annotated[DataSettings, Help("lengths and limit of the held-out prompts")] = field(
        default_factory=DataSettings
    )
    evaluation: Evaluation = field(default_factory=EvaluationSettings)
    seed: Seed = 0
    dtype: DType = "auto"
    device: Device = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSettings:
    """Check a teacher, a student and data before they are used together; without any of them, this machine."""

    out: Annotated[Path, Help("where a run would write: its file system is tested")] = Path()
    teacher: Annotated[str, Help("directory of the teacher")] = ""
    student: Annotated[str, Help("directory of the student")] = ""
    load: References = field(default_factory=LoadSettings)
    data: Annotated[DataSettings, Help("what is to be trained on")] = field(
        default_factory=lambda: DataSettings(limit=1000)
    )
    sample: Annotated[int, AtLeast(1), Help("records that are rendered on both sides and scored by the teacher")] = 16
    dtype: DType = "auto"
    device: Device = "auto"
