"""An experiment on disk: the plan of its cells (cells.json), one stage (stage.json), what came of it (experiment.json).

`experiments/` writes these values, `reporting/` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from thack.schema.cross_tokenizer import CrossTokenizer
from thack.schema.document import Document
from thack.schema.size_law import SizeLaw
from thack.schema.targets import DivergenceKind

SUMMARY_FILE = "experiment.json"
PLAN_FILE = "cells.json"
STAGE_FILE = "stage.json"

SourceKind = Literal["offline", "online-teacher", "online-student", "mixture"]  # who writes the responses, and when
# What a student is trained by.
Method = Literal[
    "distill",
    "sft",
    "hard-soft",
    "hard-soft-confidence",
    "hard-soft-tsallis",
    "hard-soft-curriculum",
    "policy-gradient",
    "offline-policy-gradient",
    "guard",
]
FineTunedOn = Literal["oracle", "teacher"]  # whose responses a student was fine-tuned on before its distillation
CellState = Literal["finished", "failed", "missing"]
Unit = Literal["%", "points", "nats", "runs"]  # shares are stored as they are: 0.03 for 3 % or 3 points
Answer = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ExperimentArm:
    """One point of the grid, for any seed: its place on every axis."""

    task: str
    source: SourceKind
    fraction_online: float  # 0 offline, 1 online
    diversity: int  # prompts are divided by it
    budget: int  # generations per prompt
    loss: DivergenceKind
    teacher: str  # its size: a hidden width, or a model directory
    student: str
    target: str  # a word that `TargetSpec.parse` reads
    num_prompts: int = 0  # of stage 2, before `diversity` divides them; 0: the experiment's
    method: Method = "distill"
    lora_rank: int = 0  # of the adapter that is trained; 0: all weights
    tokenizer: str = ""  # the student's, a word that `TokenizerWord.parse` reads; empty: the teacher's
    cross_tokenizer: CrossTokenizer = "auto"  # the loss between two tokenizers
    learning_rate: float = 0.0  # of the distillation; 0: the experiment's
    fine_tuned_on: FineTunedOn = "oracle"

    @property
    def online_path(self) -> ExperimentArm:
        """The arm with newly sampled responses of the teacher, for the same student and prompts, on exact targets.

        With more prompts a path would be lower for that reason alone.
        """
        changes = {"fraction_online": 1.0, "budget": 1, "target": "live"}
        return replace(self, source="online-teacher", method="distill", **changes)  # type: ignore[arg-type]  # of several types


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """A cell that has not run yet: one seed of one arm."""

    cell: int
    arm: str  # the arm's name
    seed: int
    run: str  # directory of the run, below the experiment's; so are `needs`
    needs: tuple[str, ...]  # the stages upstream of it, in an order in which they can run


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Document):
    """cells.json: every cell of a grid, for a Slurm array whose task N runs cell N."""

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = PLAN_FILE

    recipe: str
    cells: tuple[PlannedCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentTime(Document):
    """.NAME.spent, beside a stage that was stopped or failed: what its starts took so far."""

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = ".NAME.spent"

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __sub__(self, other: SpentTime) -> SpentTime:
        return SpentTime(seconds=self.seconds - other.seconds, cpu_seconds=self.cpu_seconds - other.cpu_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord(Document):
    """stage.json: written last, so that a stage that has it is complete."""

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = STAGE_FILE

    name: str
    key: str  # digest of everything that went into it
    seconds: float  # of all starts, but those that were killed; so is `cpu_seconds`
    cpu_seconds: float  # of its process, all threads
    operations: float  # floating-point operations, as estimated before it ran
    inputs: Mapping[str, object]
    settings: Mapping[str, object]  # by dotted key, defaults included


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """The numbers of one finished run that claims rest on; None where the run has no such number."""

    verdict: str
    rise: float | None  # golden: end over minimum − 1
    golden_end: float | None  # nats per token; so is `proxy_end`
    proxy_end: float | None
    proxy_change: float | None  # relative, from golden's minimum to the end
    over_baseline: float | None  # golden's end − KL(oracle‖teacher), in nats per token
    alarm: bool  # of the detector that decides without an oracle
    causes: tuple[str, ...] = ()  # of a rise
    gap: float | None = None  # log P_teacher − log P_student of the teacher's held-out responses, nats per byte
    golden_start: float | None = None  # nats per token; so is `golden_minimum`, after the warm-up
    golden_minimum: float | None = None
    sampled_end: float | None = None  # golden's reverse KL on the student's own responses, nats per token


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseTokens:
    """Response tokens that a run's training took. What is sampled and scored to evaluate is not among them."""

    teacher_wrote: int
    teacher_scored: int  # a token that is scored twice counts twice
    student_wrote: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What became of one cell."""

    cell: int
    path: str  # directory of the run, below the experiment's
    arm: str  # the arm's name
    seed: int
    figures: tuple[str, ...]  # that show it
    axes: ExperimentArm
    state: CellState
    error: str | None = None
    outcome: RunOutcome | None = None  # of a finished run; so are the four below
    bytes_per_token: int | None = None  # of the record that holds its target, or would
    seconds: float | None = None
    cpu_seconds: float | None = None
    tokens: ResponseTokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A number for each seed, and their mean with its 95 % interval (Student's t); one seed has no interval."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInformation:
    """How much of a response's information comes from its prompt, over the seeds of one task.

    Nats per response token, of the oracle's own responses under the oracle; see `evaluation.prompt_information`.
    """

    task: str
    with_prompt: Effect  # with the right prompts
    without_prompt: Effect  # with the prompts shuffled
    from_prompt: Effect  # the difference
    share: Effect  # the difference over `without_prompt`


@dataclass(frozen=True, slots=True, kw_only=True)
class LossGap:
    """How far from its teacher a student ends by one loss, at that loss's best learning rate: nats per byte.

    The rate of a seed is the one with the lowest mean over the other seeds; of a single seed, over itself.
    """

    tokenizer: str  # the student's; empty: the teacher's
    loss: str
    target: str  # what is kept of the teacher; empty: nothing
    rates: tuple[float, ...]  # that were chosen, by seed
    gap: Effect
    gain: Effect | None  # gap of the cross-entropy alone − gap, paired; None: the loss is that, or there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """One sentence of the paper, the number that decides it, and the answer."""

    figure: str
    text: str
    measure: str  # what the number is
    unit: Unit
    above: float | None  # where the number should be; None: no bound on that side
    below: float | None
    effect: Effect
    answer: Answer
    reason: str = ""  # what was measured beside it that may explain the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """All complete stages of one name."""

    name: str
    count: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Document):
    """experiment.json: every cell with its place on the axes and what became of it, the claims, and the costs."""

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = SUMMARY_FILE

    title: str
    figures: tuple[str, ...]
    base: ExperimentArm  # the plain offline run
    seeds: tuple[int, ...]
    runs: tuple[CellResult, ...]
    claims: tuple[ClaimResult, ...]
    information: tuple[TaskInformation, ...] = ()  # of the tasks that F6 shows
    laws: tuple[SizeLaw, ...] = ()  # of the runs on fixed responses, where there are enough
    gaps: tuple[LossGap, ...] = ()  # of the arms that figure tokenizers shows
    stages: tuple[StageCosts, ...]
    seconds: float  # of all complete stages, each counted once; so is `cpu_seconds`
    cpu_seconds: float
    settings: Mapping[str, object]  # the experiment's, nested


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLabel:
    """Where one run belongs in a report."""

    path: str  # relative to any directory, or absolute
    arm: str
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLabels(Document):
    """The part of experiment.json that names runs. A user may write it by hand."""

    FILE: ClassVar[str] = SUMMARY_FILE

    title: str = ""
    runs: tuple[RunLabel, ...] = ()
