"""What a cache will cost: `thack cache-logits --dry-run` and `thack cache probe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from thack.schema.document import Document
from thack.schema.preflight import Finding
from thack.schema.targets import CachedKind


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureEstimate(Document):
    """What a capture will cost: `thack cache-logits --dry-run`.

    Args:
        out: directory that the capture would write.
        sequences: number of sequences.
        tokens: response tokens, and so records.
        is_upper_bound: responses are still to be generated: `tokens` and `bytes` count their largest length.
        expected_tokens: response tokens at the mean length of a sample.
        shards: number of shards.
        bytes_per_token: of one record.
        bytes: of all shards.
        tokens_per_s: response tokens per second, by one process like this.
        seconds: time of the whole capture, by one process like this.
    """

    out: str
    sequences: int
    tokens: int
    is_upper_bound: bool
    expected_tokens: int
    shards: int
    bytes_per_token: int
    bytes: int
    tokens_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCost:
    """What one kind of target keeps of a teacher, loses and costs. Means are over response tokens, in nats.

    Args:
        kind: of the target.
        ids: K, or V for a dense target, or the numbers of a projected one.
        retained_mass: probability of the kept ids; 1 for an unbiased sample.
        tail_mass: probability of all other ids.
        kl_lost: Σ_{v∉S} p_v log(p_v / even share of the tail mass): what tells the ids of the tail apart, and is lost
            where the tail is kept as one number; 0 for a dense target and for an unbiased sample.
        kl_renormalised: KL(p ‖ p restricted to the kept ids and renormalised) = −log(retained mass), which is lost
            where the tail is dropped.
        noise: mean squared error Σ_v E(w_v − p_v)² of one unbiased sample.
        gradient_error: ‖Wᵀp̂ − Wᵀp‖ of what the record says, p̂, through a head W: how far it moves a student's gradient.
        bytes_per_token: of one record.
        corpus_gb: size of the whole cache, in 10⁹ bytes.
    """

    kind: CachedKind
    ids: int
    retained_mass: float = 1.0
    tail_mass: float = 0.0
    kl_lost: float = 0.0
    kl_renormalised: float = 0.0
    noise: float = 0.0
    gradient_error: float = 0.0
    bytes_per_token: int
    corpus_gb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The kind of target to cache, and why."""

    kind: CachedKind
    ids: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSize:
    """What a cache of the whole corpus takes, by kind of target.

    Args:
        kind: of the target.
        ids: K, or V for a dense target.
        bytes: of all shards.
        shards: number of shards.
        inodes: number of files and directories.
        write_mb_per_s_per_node: what the teachers of one node write, in 10⁶ bytes per second.
        read_mb_per_s_per_gpu: what one GPU in training reads, in 10⁶ bytes per second.
        teacher_hours_per_process: time of the whole capture, by one process like this.
    """

    kind: CachedKind
    ids: int
    bytes: int
    shards: int
    inodes: int
    write_mb_per_s_per_node: float
    read_mb_per_s_per_gpu: float
    teacher_hours_per_process: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult(Document):
    """What `thack cache probe` measures: each kind of target on a sample of the data.

    Args:
        sampled_sequences: number of sequences that were scored.
        sampled_tokens: number of response tokens that were scored.
        entropy_nats: mean entropy of the teacher.
        corpus_tokens: response tokens of the corpus that is sized.
        rows: each kind of target.
        recommended: the kind to choose.
        epochs: planned passes over the cache.
        teacher_tokens_per_s: response tokens that this process scored per second.
        sizing: each kind of target, for the whole corpus.
        processes_per_node: teachers that one node is taken to run.
        student_tokens_per_s: response tokens per second that one GPU in training is taken to use.
        hard_gradient_error: ‖W_y − Wᵀp‖ of the response token y alone, as supervised fine-tuning has it.
        head: whose head W is.
        another_tokenizer: what the student would lose by its tokenizer; empty where it is the teacher's.
    """

    sampled_sequences: int
    sampled_tokens: int
    entropy_nats: float
    corpus_tokens: int
    rows: tuple[TargetCost, ...]
    recommended: Recommendation
    epochs: int
    teacher_tokens_per_s: float
    sizing: tuple[CorpusSize, ...]
    processes_per_node: int
    student_tokens_per_s: int
    hard_gradient_error: float = 0.0
    head: Literal["teacher", "student"] = "teacher"
    another_tokenizer: tuple[Finding, ...] = ()
