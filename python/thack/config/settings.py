"""Every setting of every command, with its default: frozen values, filled from TOML files, flags and key=value texts.

The field's names are the keys that users type; a comment behind a field is its help text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from thack.schema.targets import CachedKind, DivergenceKind, TargetKind

SourceKind = Literal["offline", "online-teacher", "online-student", "mixture"]
TrackerName = Literal["tensorboard", "wandb", "trackio"]
DTypeName = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    path: str = ""  # JSONL or Parquet with prompt and optional response, or a directory written by generate
    max_prompt_tokens: int = 1024  # longer prompts are dropped or cut, see on_long
    max_response_tokens: int = 128  # longer responses are cut (and lose their EOS)
    on_long: Literal["drop", "cut"] = "drop"  # what happens to a prompt beyond its maximum
    on_bad_line: Literal["stop", "skip"] = "stop"  # unreadable lines: stop with the place, or skip and count
    limit: int = 0  # use the first so many prompts; 0: all


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How models that are not trained are loaded: a teacher larger than one GPU, or a quantised one."""

    through: Literal["auto", "native", "transformers"] = "auto"  # auto: native where the architecture is known
    device_map: str = ""  # transformers' device_map, such as auto (needs accelerate); empty: all on `device`
    dtype: str = ""  # of the weights, such as bfloat16; empty: float32
    quantization: str = ""  # transformers' quantisation config as JSON, such as {"quant_method": "hqq", "nbits": 4}
    full_hash: bool = False  # fingerprints of all numbers of the weights; else of a sample of each tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureSettings:
    """A model trained from scratch."""

    family: Literal["decoder", "encoder-decoder"] = "decoder"  # native, or transformers' T5 (needs thack[hf])
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 0  # 0: as many as num_heads
    intermediate_size: int = 0  # 0: 8/3 of hidden_size, rounded up to a multiple of 16
    max_positions: int = 256
    tie_head: bool = False
    dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 20
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 1.0  # 0: no clipping


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    greedy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    divergence: DivergenceKind = "forward_kl"
    beta: float = 0.5  # jsd: M = β·P_teacher + (1−β)·P_student; the scale falls with β towards 0 and 1
    skew: float = 0.1  # skewed_kl: KL(teacher ‖ skew·teacher + (1−skew)·student)
    temperature: float = 1.0  # both distributions at T, loss (and so gradient) times T²
    weight: float = 1.0  # of loss.divergence, where the loss is a sum
    add: tuple[str, ...] = ()  # further terms with their weights, such as ["reverse_kl:0.5"]
    ce_weight: float = 0.0  # adds ce_weight · cross-entropy on the response tokens
    fused: bool | Literal["auto"] = "auto"  # head and loss together, chunk by chunk, never all logits at once


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    kind: SourceKind = "offline"
    online_fraction: float = 0.5  # mixture: share of every batch that is written afresh
    online_by: Literal["teacher", "student"] = "teacher"  # mixture: who writes that share
    refresh_steps: int = 16  # online responses are written for so many steps at once, at most an epoch
    batch_size: int = 256  # prompts written to at once; ranks share these batches, so their text stays the same
    sampling: SamplingSettings = field(default_factory=SamplingSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """What of a live teacher's distribution the student sees: a cache's loss of detail, without the cache."""

    kind: TargetKind = "dense"  # mixed: the k most likely ids exactly, the tail from draws and a prior
    k: int = 16  # ids kept per token: the most likely, or sampled ones; multinomial: draws
    redraw: bool = False  # fixed responses: draw again in every epoch, which no cache can
    tail_draws: int = 0  # mixed: so many ids stand for the tail, drawn without bias
    tail_prior: float = 0.0  # mixed: this share of the tail's mass goes by the mean tail of the training data


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """A run that defends itself: at every evaluation the detector that needs no oracle is asked."""

    on: bool = False  # act when the student begins to memorise instead of to learn
    policy: Literal["refresh", "raise-online", "stop"] = "refresh"  # add fresh responses, go online, or stop
    budget: int = 6  # refresh: fresh responses per prompt over the whole run
    every: int = 1  # refresh: epochs from one fresh response per prompt to the next; 0: all at the alarm
    growth: float = 1.0  # refresh: every gap is so many times the one before
    then: Literal["stop", "go-on"] = "stop"  # refresh: once every fresh response was used, stop or go on with them
    online_fraction: float = 0.25  # raise-online: share of every batch that the teacher writes afresh
    threshold: float = 0.0  # of the detector; 0: its default


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    count: int = 12  # evaluations per run beside the one at step 0
    spacing: Literal["log", "linear"] = "log"  # evenly in log(step) or in step
    batch_size: int = 64
    student_samples: bool = True  # also sample the student afresh (fixed seed) at every evaluation
    health: bool = True  # also entropy, overlap, calibration, divergence by position; with samples, their shape
    bootstrap: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    every_steps: int = 0  # 0: only at evaluations and at the end
    keep: int = 2  # at least two stay, whatever this says
    background: bool = True  # copy at the step, write while training goes on; false: less memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSettings:
    """Several processes, started by torchrun or srun; with one, nothing of this matters."""

    strategy: Literal["auto", "ddp", "fsdp"] = "auto"  # fsdp: shards; auto: only if replicas would fill half a GPU
    shard_teacher: bool = False  # shard a live teacher too; gathered whole to generate and to evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """What makes room, or time, without changing what is computed but by rounding."""

    checkpoint_activations: bool = False  # forward again in the backward instead of keeping each block's inside
    master_weights: bool = True  # false: weights and optimizer state in dtype too, instead of float32
    compile: bool = False  # each block through torch.compile; on GPUs


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSettings:
    out: Path = Path("runs/sft")
    model: str = ""  # directory to start from; empty: a new native decoder from `architecture`
    tokenizer: str = ""  # with a new decoder: directory with tokenizer.json, or empty to train one
    tokenizer_size: int = 1024  # size of a tokenizer trained on the data
    architecture: ArchitectureSettings = field(default_factory=ArchitectureSettings)
    data: DataSettings = field(default_factory=DataSettings)
    validation_fraction: float = 0.05  # share of prompts (by hash of id) kept for validation; 0: none
    epochs: int = 8
    batch_size: int = 32
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=1.5e-3, schedule="cosine", warmup_steps=50)
    )
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    tracker: tuple[TrackerName, ...] = ()  # also send metrics.jsonl to: tensorboard, wandb, trackio
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    seed: int = 0
    dtype: DTypeName = "auto"
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSettings:
    out: Path = Path("responses")
    model: str = ""
    load: LoadSettings = field(default_factory=LoadSettings)
    data: DataSettings = field(default_factory=DataSettings)
    samples: int = 1  # responses per prompt: the generation budget
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    batch_size: int = 256
    seed: int = 0
    dtype: DTypeName = "auto"
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    out: Path = Path("cache")
    teacher: str = ""
    load: LoadSettings = field(default_factory=LoadSettings)
    data: DataSettings = field(default_factory=DataSettings)
    kind: CachedKind = "top-k"
    top_k: int = 64
    sampled: int = 16  # ids per token with kind = sampled
    temperatures: tuple[float, ...] = ()  # also keep the log-tail at these T (top-k)
    generate: bool = False  # write the responses with the teacher and score them in the same pass
    samples: int = 1
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    epochs: int = 1  # planned passes over the cache: the recommended kind depends on it
    batch_size: int = 32
    shard_tokens: int = 1 << 20
    shard_bytes: int = 1 << 28
    seed: int = 0
    dtype: DTypeName = "auto"
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    out: Path = Path("runs/distill")
    student: str = ""
    teacher: str = ""  # a live teacher; needed for online-teacher and online-student
    cache: str = ""  # targets from a cache instead of a live teacher
    data: DataSettings = field(
        default_factory=DataSettings
    )  # prompts (offline: and responses); a cache must cover them
    oracle: str = ""  # for the golden metric
    judge: str = ""  # a stronger model in the oracle's role, where there is no oracle: columns are named judge/…
    load: LoadSettings = field(default_factory=LoadSettings)  # teacher, oracle and judge
    eval_data: str = ""  # held-out prompts: a frozen evaluation set, or a JSONL to make one from in `out`
    human_references: bool = False  # a new evaluation set keeps the file's own responses: columns named human/…
    source: SourceSettings = field(default_factory=SourceSettings)
    target: TargetSettings = field(default_factory=TargetSettings)  # of a live teacher
    loss: LossSettings = field(default_factory=LossSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)
    epochs: int = 1
    steps: int = 0  # stop after so many optimizer steps; 0: after `epochs`
    batch_size: int = 32  # sequences per optimizer step over all ranks
    micro_batch_size: int = 0  # sequences per forward; 0: batch_size (no gradient accumulation)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    tracker: tuple[TrackerName, ...] = ()  # also send metrics.jsonl to: tensorboard, wandb, trackio
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    profile: bool = False  # log the time split: data, forward, loss, backward, optimizer
    seed: int = 0
    dtype: DTypeName = "auto"
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    out: Path = Path("evaluation.json")
    student: str = ""
    teacher: str = ""
    oracle: str = ""
    judge: str = ""  # a stronger model in the oracle's role, where there is no oracle: columns are named judge/…
    load: LoadSettings = field(default_factory=LoadSettings)  # teacher, oracle and judge
    eval_data: str = ""  # a frozen evaluation set, or a JSONL of prompts to make one from beside `out`
    human_references: bool = False  # a new evaluation set keeps the file's own responses: columns named human/…
    data: DataSettings = field(default_factory=DataSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    seed: int = 0
    dtype: DTypeName = "auto"
    device: str = "auto"
