"""What a run says of itself: STATUS.json, manifest.json, environment.json, and the state of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal

from thack.schema.document import Document

State = Literal["running", "stopped", "failed", "finished"]
Command = Literal["sft", "distill"]
SUPERVISED = "sft"  # directory of the plain fine-tuning beside a distillation, within its own
Order = Literal["sorted", "keyed"]  # how a run's order of sequences is drawn: `thack.training.order`


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Document):
    """STATUS.json: how the work in an output directory ended, or that it has not.

    A directory that says "running" while nothing runs was killed, or lost its machine.
    """

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = "STATUS.json"

    state: State
    step: int | None = None  # of training: that of the last checkpoint
    exit_code: int = 0  # of the command; 75: stopped for preemption, to be started again
    reason: str = ""
    start: str = ""  # the batch script's name for the start that wrote this; a job compares it with its own


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCosts:
    """What the cache of a run holds, and what it took to write it."""

    sequences: int
    tokens: int  # response tokens that the teacher scored, once each
    bytes: int
    seconds: float | None = None  # of all processes together; None: not known, as of an imported cache

    def __add__(self, other: CacheCosts) -> CacheCosts:
        known = self.seconds is not None and other.seconds is not None
        return CacheCosts(
            sequences=self.sequences + other.sequences,
            tokens=self.tokens + other.tokens,
            bytes=self.bytes + other.bytes,
            seconds=(self.seconds or 0) + (other.seconds or 0) if known else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """One of several caches that a run takes its targets from."""

    fingerprint: str
    teacher: str  # fingerprint
    path: str  # where it was; content decides
    costs: CacheCosts


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What goes into a training run, by content. Every rank starts from the same facts, and so does a resumed run."""

    models: Mapping[str, str]  # fingerprint by role
    origins: Mapping[str, str] = field(default_factory=dict)  # directory or org/name@commit by role
    tokenizer: str = ""  # fingerprint
    teacher_tokenizer: str = ""  # fingerprint, where it is another one than the student's
    data: str | None = None  # fingerprint of the sequences; None: they are the cache's
    written_by: str = ""  # fingerprint of the model that wrote the responses of the data; empty: it is not known
    cache: str | None = None  # fingerprint; of several, that of the list of theirs
    caches: tuple[CacheFacts, ...] = ()  # of several, each in its order
    cache_weights: str | None = None  # fingerprint of the weights of every prompt, where caches are mixed
    eval_set: str | None = None  # fingerprint
    compared_ids: int | None = None  # width of the vocabulary on which student and teacher are compared
    sequences: int = 0  # that are trained on
    validation_sequences: int = 0
    precision: Mapping[str, str] = field(default_factory=dict)  # number format of the products by role, and why
    preflight: Mapping[str, float] = field(default_factory=dict)  # what was measured of models and data at the start
    ranks: int = 1
    order: Order = "sorted"  # of the sequences; earlier runs, whose manifests do not say, were sorted
    started: str = ""  # UTC, as 2026-11-29 10:05
    target: str = ""  # what is kept of the teacher, as a word that `TargetSpec.parse` reads
    parameters: Mapping[str, int] = field(default_factory=dict)  # how many, by role
    eval_prompts: int | None = None  # in the evaluation set; None: there is none
    eval_tokens: int = 0  # response tokens that models wrote for it
    cache_costs: CacheCosts | None = None  # of all caches together

    def changes(self, now: RunFacts) -> dict[str, tuple[object, object]]:
        """What a resumed run may not change, but does: before and now, by name.

        The student is not compared: it now comes from a checkpoint. Nor is what depends on the machine.
        """
        before, after = (_compared(facts) for facts in (self, now))
        return {key: (before[key], value) for key, value in after.items() if before.get(key, value) != value}

    def with_student_of(self, earlier: RunFacts) -> RunFacts:
        """The same facts with the student and the time that the run began with."""
        student = {"student": earlier.models["student"]}
        origin = {"student": earlier.origins["student"]} if "student" in earlier.origins else {}
        models, origins = {**self.models, **student}, {**self.origins, **origin}
        return replace(self, models=models, origins=origins, started=earlier.started or self.started)


def _compared(facts: RunFacts) -> dict[str, object]:
    found: dict[str, object] = {f"models.{role}": value for role, value in facts.models.items() if role != "student"}
    for name in (
        "tokenizer",
        "teacher_tokenizer",
        "data",
        "cache",
        "cache_weights",
        "eval_set",
        "compared_ids",
        "sequences",
        "validation_sequences",
    ):
        found[name] = getattr(facts, name)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Document):
    """manifest.json of a run: which command wrote it, from what."""

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = "manifest.json"

    kind: Literal["run"] = "run"
    command: Command
    facts: RunFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a run has cost so far, over all its starts and ranks."""

    generated_tokens: int = 0  # response tokens sampled for training
    teacher_tokens: int = 0  # response tokens scored by a live teacher, for training
    evaluation_generated_tokens: int = 0  # response tokens sampled for the monitors and of the student
    evaluation_scored_tokens: int = 0  # response tokens scored by references, in evaluations and monitors
    evaluation_seconds: float = 0.0
    seconds: float = 0.0  # evaluations included

    def __add__(self, other: Costs) -> Costs:
        return Costs(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(Costs)})

    def columns(self) -> dict[str, float]:
        """As columns of metrics.jsonl."""
        return {
            "generated_tokens": self.generated_tokens,
            "teacher_tokens": self.teacher_tokens,
            "evaluation_generated_tokens": self.evaluation_generated_tokens,
            "evaluation_scored_tokens": self.evaluation_scored_tokens,
            "seconds_evaluation": round(self.evaluation_seconds, 3),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState(Document):
    """trainer.json of a checkpoint: what is needed to resume beside weights, optimizer and responses."""

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = "trainer.json"

    step: int
    costs: Costs = field(default_factory=Costs)
    hooks: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # each hook's own state, by its name


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment(Document):
    """environment.json: what a number depends on beside its settings. Nothing in it names the user or a path."""

    SCHEMA: ClassVar[int] = 1

    thack: str
    git: str | None = None  # revision of the checkout, with + where files differ from it; None when installed
    python: str
    platform: str
    packages: Mapping[str, str]
    cpu: str
    simd: str  # vector instructions that the Rust kernels chose
    bf16: str  # instructions that multiply bfloat16 natively, or "emulated"
    threads: int
    thread_limits: Mapping[str, int]
    gpus: tuple[str, ...] = ()
    world_size: int = 1
    slurm_job: str | None = None
