"""Golden, proxy and baseline: one distance from a reference to a model, with other references and other models.

B sequences, N response tokens packed, V vocabulary, P prompts of the evaluation set. `schema.metrics` explains the
columns, `health.py` those beside them. The baseline measures the teacher in the student's place, on the oracle's fixed
responses and on the teacher's own; it is the same in every row.

Models are compared on the full vocabulary, never through a cache: what a cache leaves out would bend the curves. A
negative log-likelihood contains the entropy of human text: its differences are those of KL(people‖model), its level is
not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from thack.config import EvaluationSettings, SamplingSettings
from thack.data.batching import by_length
from thack.data.sequence import TokenSequence
from thack.detection.statistics import prompt_weights, reduced_intervals
from thack.errors import ModelError, UsageError
from thack.evaluation.divergences import PromptTotals, by_divergence, three_divergences
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.health import FixedHealth, entropies, sample_health
from thack.evaluation.kept import KeptParts, Part
from thack.evaluation.references import ModelLike, References, TokenizerLike
from thack.evaluation.samples import KeptResponses
from thack.generation.sampler import GenerationRequest, generate
from thack.losses import cross_entropy
from thack.models.batch import Batch
from thack.models.load import as_language_model
from thack.models.protocol import LanguageModel, evaluating
from thack.models.routers import counting_experts
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.schema.metrics import (
    BASELINE_OF,
    REDUCTIONS,
    Column,
    HealthName,
    MetricName,
    PerPromptRow,
    PromptSums,
    Responses,
    Role,
)
from thack.targets.keys import EVALUATION_STREAM
from thack.targets.vocabulary import common_width, log_probs

_INTERVAL_SEED = 20250203  # fixed: intervals are part of the measurement, not of the run
_CONFIDENCE = 0.95
_MEMORY_BYTES = 1 << 30  # reference log-probabilities kept between evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One evaluation of one student.

    Attributes:
        columns: Every metric in nats, with both ends of its 95 % interval over prompts.
        per_prompt: What each metric was computed from.
        health: Columns beside the metrics; empty where they were not asked for.
        generated_tokens: Tokens that the student wrote for this evaluation.
        kept: Responses to the first prompts, token by token.
        scored_tokens: Response tokens that references scored in it, on all ranks.
    """

    columns: Mapping[MetricName, float]
    per_prompt: Mapping[MetricName, PromptSums]
    health: Mapping[HealthName, float]
    generated_tokens: int = 0
    scored_tokens: int = 0
    kept: KeptResponses | None = None

    def all_columns(self) -> dict[Column, float]:
        """Metrics, and health after them."""
        return dict((*self.columns.items(), *self.health.items()))

    def named(self) -> dict[str, float]:
        """The same by the names of their columns on disk."""
        return {str(name): value for name, value in self.all_columns().items()}

    def per_prompt_row(self, step: int | None) -> PerPromptRow:
        """The line of per_prompt.jsonl for an evaluation at `step`; None outside training."""
        return PerPromptRow(step=step, metrics=self.per_prompt)


@dataclass(slots=True)
class Evaluator:
    """Measures students on one evaluation set. What references say of their own fixed responses stays in memory.

    Args:
        eval_set: Held-out prompts with the fixed responses of every reference.
        references: The models to compare with, at least one, unless `eval_set` holds responses that people wrote.
        settings: Batch size, whether to sample the student, resamples of the intervals, whether to measure health.
        seed: Of the student's own responses.
        memory_bytes: At most this much of the references' log-probabilities is kept between evaluations.
        group: Ranks share the batches. The columns are those of one process, to the bit.

    Raises:
        UsageError: nothing to compare with, or a reference without responses in `eval_set`.
        MismatchError: a reference did not write its responses, or has another tokenizer.

    Example:
        >>> evaluator = Evaluator(eval_set, References(oracle=oracle, teacher=teacher))
        >>> evaluator.evaluate(student).columns[GOLDEN] > 0
        True
    """

    eval_set: EvalSet
    references: References
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    seed: int = 0
    memory_bytes: int = _MEMORY_BYTES
    group: ProcessGroup = ALONE
    _models: dict[Role, LanguageModel] = field(init=False)
    _kept: dict[tuple[Role, int], Tensor] = field(init=False, default_factory=dict)
    _kept_bytes: int = field(init=False, default=0)
    _baseline: Part | None = field(init=False, default=None)
    _weights_BP: np.ndarray | None = field(init=False, default=None)
    _kept_responses: KeptResponses = field(init=False)  # of the evaluation that runs
    _scored: int = field(init=False, default=0)  # by references, on this rank, in the evaluation that runs

    def __post_init__(self) -> None:
        self._models = dict(self.references)
        if not self._models and not self._has_human:
            raise UsageError("evaluating needs a teacher (proxy) or an oracle (golden)")
        for role, model in self.references:
            self.eval_set.check_writer(role, model)
            self.eval_set.check_tokenizer(role, model.tokenizer)

    @property
    def _has_human(self) -> bool:
        return Role.HUMAN in self.eval_set.responses

    @property
    def _shown(self) -> Role | None:
        """The reference whose distance is kept token by token: the teacher, or else the first."""
        return Role.TEACHER if Role.TEACHER in self._models else next(iter(self._models), None)

    def evaluate(self, student: LanguageModel, progress: Progress = SILENT, kept: KeptParts | None = None) -> Measured:
        """Measure one student. Its train mode and the global random state are left as they were.

        Raises:
            MismatchError: the student has another tokenizer than the evaluation set.
            ModelError: a model gives NaN.
        """
        self.eval_set.check_tokenizer("student", student.tokenizer)
        self._scored = 0
        self._kept_responses = KeptResponses(self.settings.kept_prompts, self._shown or Role.HUMAN)
        with evaluating(student):
            measures = self._parts(student, progress)
            parts = [measure() if kept is None else kept.of(name, measure) for name, measure in measures]
        sums = {name: found for part in parts for name, found in part.sums.items()}
        return Measured(
            columns=self._columns(sums),
            per_prompt=sums,
            health={name: value for part in parts for name, value in part.health.items()},
            generated_tokens=sum(part.generated_tokens for part in parts),
            scored_tokens=int(self.group.all_reduce_sum(self._scored)[0]),
            kept=self._kept_responses,
        )

    def _parts(self, student: LanguageModel, progress: Progress) -> Iterator[tuple[str, Callable[[], Part]]]:
        """Each part by a name, to be measured in this order."""
        for role in self._models:
            health = FixedHealth() if self.settings.health else None
            yield f"fixed/{role}", partial(self._on_fixed, role, student, health)
        if self._has_human:
            yield "human", partial(self._likelihood, student)
        if self.settings.student_samples:
            yield "samples", partial(self._on_samples, student, progress)
        yield "baseline", self._of_baseline

    def _on_fixed(
        self, role: Role, model: LanguageModel, health: FixedHealth | None = None, *, baseline: bool = False
    ) -> Part:
        """Distance of `model` from reference `role` on that reference's own responses."""
        totals, width = PromptTotals(len(self.eval_set)), self._width(model)
        with counting_experts(model.routers if health else None) as experts_LE:
            for number, sequences in self._batches(self.eval_set.sequences(role)):
                batch = Batch.of(sequences, model.device)
                reference_NV = self._reference(role, number, batch, width)
                model_NV = self._log_probs_of(model, batch, width, baseline=baseline)
                nats_N3 = three_divergences(reference_NV, model_NV)
                totals.add(sequences, nats_N3)
                if role is self._shown and not baseline:
                    self._kept_responses.add(role, sequences, nats_N3[:, 0])
                if health is not None:
                    health.add(sequences, reference_NV, model_NV, nats_N3[:, 0])
        sums = self._named(totals, role, "reference_sampled", baseline=baseline)
        return Part(sums=sums, health=health.columns(role, self.group, experts_LE) if health else {})

    def _likelihood(self, model: LanguageModel, *, baseline: bool = False) -> Part:
        """−log q of every token that people wrote, on the ids that the tokenizer knows."""
        totals = PromptTotals(len(self.eval_set), num_values=1)
        for _, sequences in self._batches(self.eval_set.sequences(Role.HUMAN)):
            batch = Batch.of(sequences, model.device)
            log_q_NV = self._log_probs_of(model, batch, model.tokenizer.size, baseline=baseline)
            totals.add(sequences, cross_entropy(log_q_NV, batch.labels_N)[:, None])
        (sums,) = totals.of_all_ranks(self.group)
        name = MetricName(role=Role.ORACLE, baseline=baseline, reduction=None).against(Role.HUMAN)
        return Part(sums={name: sums})

    def _on_samples(self, student: LanguageModel, progress: Progress) -> Part:
        """Distance from every reference on the student's own responses: one pass of the student for all."""
        sequences = self._student_samples(student, progress)
        totals = {role: PromptTotals(len(self.eval_set)) for role in self._models}
        width = self._width(student)
        entropy_nats = 0.0
        for _, part in self._batches(sequences):
            batch = Batch.of(part, student.device)
            student_NV = _log_probs(student, batch, width, "student")
            entropy_nats += float(entropies(student_NV).sum()) if self.settings.health else 0.0
            for role in self._models:
                reference_NV = self._scores(role, batch, width)
                nats_N3 = three_divergences(reference_NV, student_NV)
                totals[role].add(part, nats_N3)
                if role is self._shown:
                    self._kept_responses.add(None, part, nats_N3[:, 0])
        sums: dict[MetricName, PromptSums] = {}
        for role, total in totals.items():
            sums |= self._named(total, role, "student_sampled")
        written = [s.response_ids for s in sequences]
        num_tokens = sum(map(len, written))
        health: dict[HealthName, float] = {}
        if self.settings.health:
            health = sample_health(
                written,
                ends=student.tokenizer.ends,
                max_new_tokens=self.eval_set.origin.longest,
                entropy=self.group.all_reduce_sum(entropy_nats)[0] / num_tokens,
            )
        return Part(sums=sums, health=health, generated_tokens=num_tokens)

    def _student_samples(self, student: LanguageModel, progress: Progress) -> list[TokenSequence]:
        request = GenerationRequest(
            sampling=SamplingSettings(),
            max_new_tokens=self.eval_set.origin.longest,
            seed=self.seed,
            epoch=EVALUATION_STREAM,
        )
        responses = generate(
            student,
            self.eval_set.prompts,
            request,
            examples=np.arange(len(self.eval_set)),
            progress=progress,
            group=self.group,
        )
        return self.eval_set.sequences_of(responses)

    def _of_baseline(self) -> Part:
        """The teacher in the student's place, measured once: where a perfect copy of it would end."""
        teacher = self.references.teacher
        if self._baseline is None:
            sums: dict[MetricName, PromptSums] = {}
            if teacher is not None:
                for role in (role for role in self._models if role in BASELINE_OF):
                    sums |= self._on_fixed(role, teacher, baseline=True).sums
                    sums |= self._on_teacher_responses(role, teacher)
                if self._has_human:
                    sums |= self._likelihood(teacher, baseline=True).sums
            self._baseline = Part(sums=sums)
        return self._baseline

    def _on_teacher_responses(self, role: Role, teacher: LanguageModel) -> dict[MetricName, PromptSums]:
        """Distance of the teacher from reference `role` on the teacher's fixed responses."""
        totals, width = PromptTotals(len(self.eval_set)), self._width(teacher)
        for number, sequences in self._batches(self.eval_set.sequences(Role.TEACHER)):
            batch = Batch.of(sequences, teacher.device)
            teacher_NV = self._reference(Role.TEACHER, number, batch, width)
            reference_NV = self._scores(role, batch, width)
            totals.add(sequences, three_divergences(reference_NV, teacher_NV))
        return self._named(totals, role, "student_sampled", baseline=True)

    def _named(
        self, totals: PromptTotals, role: Role, responses: Responses, *, baseline: bool = False
    ) -> dict[MetricName, PromptSums]:
        found = by_divergence(totals.of_all_ranks(self.group))
        return {
            MetricName(role=role, divergence=name, responses=responses, reduction=None, baseline=baseline): sums
            for name, sums in found.items()
        }

    def _width(self, student: LanguageModel) -> int:
        """One width for all models, so that golden, proxy and baseline are about the same outcomes."""
        widths = {role.value: model.vocab_size for role, model in self._models.items()}
        return common_width(student.tokenizer.size, student=student.vocab_size, **widths)

    def _reference(self, role: Role, number: int, batch: Batch, width: int) -> Tensor:
        """log_probs_NV of a reference on batch `number` of its fixed responses, from memory where they fit."""
        kept = self._kept.get((role, number))
        if kept is not None and kept.shape[1] == width:
            return kept
        found = self._scores(role, batch, width)
        if self._kept_bytes + found.nbytes <= self.memory_bytes:
            self._kept[role, number] = found
            self._kept_bytes += found.nbytes
        return found

    def _scores(self, role: Role, batch: Batch, width: int) -> Tensor:
        """log_probs_NV of a reference, counted."""
        self._scored += len(batch.labels_N)
        return _log_probs(self._models[role], batch.for_teacher() if role is Role.TEACHER else batch, width, role)

    def _log_probs_of(self, model: LanguageModel, batch: Batch, width: int, *, baseline: bool) -> Tensor:
        """log_probs_NV of the model that is measured: the student, or the teacher in its place, which is counted."""
        self._scored += len(batch.labels_N) if baseline else 0
        if baseline:
            return _log_probs(model, batch.for_teacher(), width, "teacher")
        return _log_probs(model, batch, width, "student")

    def _batches(self, sequences: Sequence[TokenSequence]) -> Iterator[tuple[int, list[TokenSequence]]]:
        """This rank's of the fixed, numbered batches of similar length: the same sequences always meet in one."""
        for number, batch in enumerate(by_length(sequences, self.settings.batch_size)):
            if self.group.owns(number):
                yield number, batch

    def _columns(self, per_prompt: Mapping[MetricName, PromptSums]) -> dict[MetricName, float]:
        if self._weights_BP is None:
            rng = np.random.default_rng(_INTERVAL_SEED)
            self._weights_BP = prompt_weights(rng, len(self.eval_set), self.settings.bootstrap)
        columns: dict[MetricName, float] = {}
        for name, sums in per_prompt.items():
            total, tokens = sums.nats_P.sum(), sums.tokens_P.sum()
            points = {"token_mean": total / tokens, "sequence_sum": total / len(self.eval_set)}
            bounds = reduced_intervals(sums, self._weights_BP, _CONFIDENCE)
            for reduction in REDUCTIONS:
                column = replace(name, reduction=reduction)
                low, high = bounds[reduction]
                columns |= {
                    column: float(points[reduction]),
                    replace(column, bound="low"): low,
                    replace(column, bound="high"): high,
                }
        return columns


def _log_probs(model: LanguageModel, batch: Batch, width: int, role: str) -> Tensor:
    if batch.device != model.device:  # a model over several devices takes its input on the first of them
        own = {name: getattr(batch, name).to(model.device) for name in ("labels_N", "lengths_B", "sequence_of_N")}
        return _log_probs(model, replace(batch, **own, _layouts={}), width, role).to(batch.device)
    found = log_probs(model(batch), width)
    if torch.isnan(found).any():
        raise ModelError(f"the {role} gives NaN logits", hint="check its weights, or evaluate in float32")
    return found


def evaluate(
    student: ModelLike,
    eval_set: EvalSet,
    references: References,
    *,
    tokenizer: TokenizerLike = None,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Measured:
    """Every column for one student. For several checkpoints keep an `Evaluator`, which remembers the references.

    Args:
        student: A model of thack's, a plain transformers model, a directory, or a name on the hub.
        eval_set: Held-out prompts with the fixed responses of every reference.
        references: What to compare with.
        tokenizer: For a transformers model that does not know its own.
        settings: As of `Evaluator`.
        seed: Of the student's own responses.
        progress: Where to show how far it has come.

    Raises:
        UsageError, MismatchError, ModelError: as of `Evaluator`.

    Example:
        >>> evaluate(student, eval_set, References(oracle=oracle)).columns[GOLDEN] > 0
        True
    """
    evaluator = Evaluator(eval_set, references, settings or EvaluationSettings(), seed=seed)
    return evaluator.evaluate(as_language_model(student, tokenizer, role="student"), progress)


def distance(
    student: ModelLike,
    reference: ModelLike,
    eval_set: EvalSet,
    *,
    role: Role,
    tokenizer: TokenizerLike = None,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
) -> Mapping[MetricName, float]:
    """How far a student is from one reference on the evaluation set. Golden and proxy are this, with two references.

    Args:
        student: A model of thack's, a plain transformers model, a directory, or a name on the hub.
        reference: The same.
        eval_set: Held-out prompts with the fixed responses of the reference.
        role: Whose fixed responses in `eval_set` are the reference's: oracle, teacher or judge.
        tokenizer: For transformers models that do not know theirs.
        settings: As of `Evaluator`; health is not measured.
        seed: Of the student's own responses.

    Returns:
        Forward KL, reverse KL and JSD in nats, on the reference's responses and on the student's, per token and per
        sequence, with both ends of their 95 % intervals.

    Raises:
        UsageError, MismatchError, ModelError: as of `Evaluator`.

    Example:
        >>> distance(teacher, teacher, eval_set, role=Role.TEACHER)[PROXY] < 1e-6
        True
    """
    references = References.of(**{role.value: reference}, tokenizer=tokenizer)
    settings = replace(settings or EvaluationSettings(), health=False)
    found = evaluate(student, eval_set, references, tokenizer=tokenizer, settings=settings, seed=seed)
    return {name: value for name, value in found.columns.items() if name.role is role}
