"""Groups of settings of a training run: optimizer, loss, source of responses, target, guard, memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from thack.config.shared import SamplingSettings
from thack.schema.cross_tokenizer import CrossTokenizer
from thack.schema.experiment import SourceKind
from thack.schema.fields import FRACTION, Above, AtLeast, Between, Help
from thack.schema.policy import Estimator, Importance
from thack.schema.targets import DivergenceKind, TargetKind

MixKind = Literal["sum", "confidence", "entropy", "curriculum"]
CacheOverlap = Literal["refuse", "first", "all"]  # of prompts, in several caches of one run
_BETA = Between(0, 1, without_high=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """AdamW and its learning rate."""

    learning_rate: Annotated[float, Above(0), Help("peak learning rate")] = 1e-3
    schedule: Annotated[Literal["constant", "cosine"], Help("learning rate after the warm-up")] = "constant"
    warmup_steps: Annotated[int, AtLeast(0), Help("steps over which the learning rate rises linearly from 0")] = 20
    weight_decay: Annotated[float, AtLeast(0), Help("decoupled weight decay")] = 0.0
    beta1: Annotated[float, _BETA, Help("decay of the mean of gradients")] = 0.9
    beta2: Annotated[float, _BETA, Help("decay of the mean of squared gradients")] = 0.999
    clip_norm: Annotated[float, AtLeast(0), Help("largest norm of the gradient (0 = no clipping)")] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """On-policy distillation by the log-probability of each token that the student wrote."""

    weight: Annotated[float, AtLeast(0), Help("weight of the policy gradient in the loss (0 = none)")] = 0.0
    estimator: Annotated[
        Estimator, Help("k1: policy gradient with advantage log p − log q (reverse KL); k3: p/q − 1 − log p/q, derived")
    ] = "k1"
    importance: Annotated[
        Importance,
        Help("weight of samples of an earlier student: q / q then, at most 1 + clip; PPO's clipped surrogate; or none"),
    ] = "truncated"
    clip: Annotated[float, AtLeast(0), Help("how far an importance weight may be from 1; ppo: usually 0.2")] = 1.0
    discount: Annotated[
        float, FRACTION, Help("k1: share of each later token's advantage (0 = none, 1 = reverse KL of whole responses)")
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """What is minimised: weight · divergence + the terms of `add` + policy + ce_weight · cross-entropy."""

    divergence: Annotated[DivergenceKind, Help("divergence between teacher and student")] = "forward_kl"
    beta: Annotated[float, FRACTION, Help("jsd: M = β·teacher + (1−β)·student; the loss shrinks as β nears 0 or 1")] = (
        0.5
    )
    skew: Annotated[float, FRACTION, Help("skewed_kl: KL(teacher ‖ skew·teacher + (1−skew)·student)")] = 0.1
    temperature: Annotated[
        float, Above(0), Help("temperature of both distributions; loss and gradient are scaled by T²")
    ] = 1.0
    weight: Annotated[float, AtLeast(0), Help("weight of the divergence, where the loss is a sum")] = 1.0
    add: Annotated[tuple[str, ...], Help('further divergences with weights: ["reverse_kl:0.5", "jsd(0.3):1"]')] = ()
    ce_weight: Annotated[float, AtLeast(0), Help("weight of the cross-entropy on the response tokens")] = 0.0
    mix: Annotated[
        MixKind,
        Help("soft and hard terms: their sum; or by position: hard where the teacher is sure of the token, or of any"),
    ] = "sum"
    entropy_order: Annotated[
        float, Between(0, 1, without_low=True), Help("mix = entropy: order of the entropy; 1 is Shannon's")
    ] = 1.0
    curriculum: Annotated[
        float, Between(0, 1, without_low=True), Help("mix = curriculum: share of the steps in which soft replaces hard")
    ] = 1.0
    policy: Annotated[PolicySettings, Help("on-policy distillation by realised log-probabilities")] = field(
        default_factory=PolicySettings
    )
    cross_tokenizer: Annotated[
        CrossTokenizer,
        Help(
            "student with another tokenizer: cells (auto), the same with the next row inside, a published loss, or none"
        ),
    ] = "auto"
    alm_temperature: Annotated[
        float, Above(0), Help("cross_tokenizer = alm: likelihoods are taken to the power 1/τ")
    ] = 100.0
    fused: Annotated[
        bool | Literal["auto"], Help("compute LM head and loss together, chunk by chunk, never all logits at once")
    ] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Train an adapter of peft on a frozen base model, instead of all weights."""

    rank: Annotated[int, AtLeast(0), Help("rank of the adapter's matrices (0 = no adapter: all weights train)")] = 0
    alpha: Annotated[float, Above(0), Help("the adapter's product is scaled by alpha / rank")] = 32.0
    dropout: Annotated[float, _BETA, Help("dropout on what the adapter reads")] = 0.0
    target_modules: Annotated[
        tuple[str, ...], Help("names of the layers that get an adapter; all-linear: every one but the head")
    ] = ("all-linear",)
    use_rslora: Annotated[bool, Help("rank-stabilised LoRA: scaled by alpha / √rank")] = False
    use_dora: Annotated[bool, Help("DoRA: the magnitude of each weight's columns trains apart")] = False
    quantization: Annotated[
        str, Help('transformers\' quantisation of the frozen base, such as {"quant_method": "bitsandbytes"}, as JSON')
    ] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Who writes the responses, and when."""

    kind: Annotated[
        SourceKind, Help("given responses, newly sampled ones by teacher or student (on-policy), or a mixture")
    ] = "offline"
    online_fraction: Annotated[float, FRACTION, Help("mixture: share of every batch that is newly sampled")] = 0.5
    online_by: Annotated[Literal["teacher", "student"], Help("mixture: which model writes that share")] = "teacher"
    refresh_steps: Annotated[
        int, AtLeast(1), Help("online responses are sampled for this many steps at once, at most an epoch")
    ] = 16
    batch_size: Annotated[int, AtLeast(1), Help("prompts per generation batch; batches are shared among ranks")] = 256
    sampling: Annotated[SamplingSettings, Help("how online responses are sampled")] = field(
        default_factory=SamplingSettings
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """What is kept of a live teacher's distribution: the loss of detail of a cache, without the cache."""

    kind: Annotated[
        TargetKind, Help("kind of target; mixed: the k most likely ids, the tail from draws and a prior")
    ] = "dense"
    k: Annotated[int, AtLeast(1), Help("ids kept per token; multinomial: draws per token")] = 16
    redraw: Annotated[bool, Help("given responses: draw again in every epoch, which no cache can")] = False
    tail_draws: Annotated[int, AtLeast(0), Help("mixed: unbiased draws that represent the tail")] = 0
    tail_prior: Annotated[
        float, FRACTION, Help("mixed: share of the tail mass that follows the mean tail of the training data")
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """A guard: at every evaluation, the detector that needs no oracle can change or stop the run."""

    on: Annotated[bool, Help("watch for memorisation without an oracle, and act by guard.policy")] = False
    policy: Annotated[
        Literal["refresh", "raise-online", "stop"],
        Help("after an alarm: add newly sampled responses, train partly online, or stop"),
    ] = "refresh"
    budget: Annotated[int, AtLeast(1), Help("refresh: newly sampled responses per prompt over the whole run")] = 6
    every: Annotated[int, AtLeast(1), Help("refresh: epochs between two new responses of a prompt")] = 1
    growth: Annotated[
        float, Above(0), Help("refresh: growth factor of that interval, which is never below one epoch")
    ] = 1.0
    then: Annotated[Literal["stop", "continue"], Help("refresh: what happens once every new response was used")] = (
        "stop"
    )
    online_fraction: Annotated[
        float, FRACTION, Help("raise-online: share of every batch that the teacher newly samples")
    ] = 0.25
    threshold: Annotated[float, AtLeast(0), Help("threshold of the detector (0 = its default)")] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """When the state of a run is saved."""

    every_steps: Annotated[int, AtLeast(0), Help("steps between checkpoints (0 = at evaluations and at the end)")] = 0
    keep: Annotated[int, AtLeast(1), Help("newest checkpoints that are kept; two are kept in any case")] = 2
    background: Annotated[bool, Help("write while training continues; false: less memory")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSettings:
    """Several processes, started by torchrun or srun. With one process, nothing here has an effect."""

    strategy: Annotated[
        Literal["auto", "ddp", "fsdp"],
        Help("ddp: replicas; fsdp: sharded; auto: sharded only if a replica would fill half a GPU"),
    ] = "auto"
    shard_teacher: Annotated[bool, Help("shard a live teacher too; it is gathered to generate and to evaluate")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """Memory and speed options. They do not change the result beyond floating-point rounding."""

    checkpoint_activations: Annotated[
        bool, Help("activation checkpointing: recompute each block in the backward pass")
    ] = False
    master_weights: Annotated[bool, Help("weights and optimizer state in float32; false: in `dtype`, compensated")] = (
        True
    )
    compile: Annotated[bool, Help("run each block through torch.compile, on GPUs")] = False
