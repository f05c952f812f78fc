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
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from thack.config import EvaluationSettings, SamplingSettings
from thack.data.sequence import TokenSequence
from thack.errors import UsageError
from thack.evaluation.across import AcrossTokenizers
from thack.evaluation.divergences import PromptTotals, by_divergence, log_ratios, three_divergences
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.health import FixedHealth, entropies, sample_health
from thack.evaluation.kept import KeptParts, Part
from thack.evaluation.measured import Intervals, Measured
from thack.evaluation.readings import Readings
from thack.evaluation.references import References
from thack.evaluation.samples import KeptResponses
from thack.evaluation.scoring import Scorer
from thack.generation.sampler import GenerationRequest, generate
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel, evaluating
from thack.models.routers import counting_experts
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.schema.metric_rows import PromptSums
from thack.schema.metrics import BASELINE_OF, DIVERGENCES, MetricName, Responses, Role
from thack.targets.keys import EVALUATION_STREAM

_MEMORY_BYTES = 1 << 30  # reference log-probabilities kept between evaluations


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
        MismatchError: a reference did not write its responses, or has another tokenizer than they have.

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
    _scorer: Scorer = field(init=False)
    _readings: Readings = field(init=False)
    _across: AcrossTokenizers = field(init=False)
    _intervals: Intervals | None = field(init=False, default=None)
    _baseline: Part | None = field(init=False, default=None)
    _per_byte: bool = field(init=False, default=False)  # of the evaluation that runs, and of the baseline
    _kept_responses: KeptResponses = field(init=False)  # of the evaluation that runs

    def __post_init__(self) -> None:
        models = dict(self.references)
        if not models and not self._has_human:
            raise UsageError("evaluating needs a teacher (proxy) or an oracle (golden)")
        for role, model in self.references:
            self.eval_set.check_writer(role, model)
        self._scorer = Scorer(self.eval_set, models, self.settings.batch_size, self.memory_bytes, self.group)
        self._readings = Readings(self.eval_set, self.references.tokenizers)
        self._across = AcrossTokenizers(self._scorer, self._readings, self.settings.kept_prompts)

    @property
    def _has_human(self) -> bool:
        return Role.HUMAN in self.eval_set.responses

    @property
    def _models(self) -> Mapping[Role, LanguageModel]:
        return self._scorer.models

    @property
    def _roles(self) -> list[Role]:
        """Of all references, those of people among them."""
        return [*self._models, *([Role.HUMAN] if self._has_human else [])]

    def _shown(self, student: LanguageModel) -> Role | None:
        """The reference whose distance is kept token by token: the teacher, or else the first; best with these ids."""
        roles = [role for role in (Role.TEACHER, *self._models) if role in self._models]
        return next((role for role in roles if self._scorer.shares_ids(role, student)), next(iter(roles), None))

    def notes(self, student: LanguageModel) -> list[str]:
        """What is to be known of a student's measures beforehand: how it is compared with each reference, and on what.

        Raises:
            MismatchError: it cannot be compared.
            UsageError: `evaluation.per_byte` asks for the bytes of a tokenizer whose tokens have none of their own.
        """
        if self.settings.per_byte:
            self._readings.check_bytes([student.tokenizer, *self.references.tokenizers])
        found = []
        for role in self._roles:
            if not self._scorer.shares_ids(role, student):
                reading = self._readings.of(role, student.tokenizer)
                reading.check(role)
                found.append(reading.note(role))
        return found

    def evaluate(self, student: LanguageModel, progress: Progress = SILENT, kept: KeptParts | None = None) -> Measured:
        """Measure one student. Its train mode and the global random state are left as they were.

        Raises:
            MismatchError: what the references wrote cannot be read with the student's tokenizer.
            ModelError: a model gives NaN.
        """
        self.notes(student)
        self._scorer.scored = 0
        self._set_per_byte(student)
        self._kept_responses = KeptResponses(self.settings.kept_prompts, self._shown(student) or Role.HUMAN)
        with evaluating(student):
            measures = self._parts(student, progress)
            parts = [measure() if kept is None else kept.of(name, measure) for name, measure in measures]
        sums = {name: found for part in parts for name, found in part.sums.items()}
        if self._intervals is None:
            self._intervals = Intervals(len(self.eval_set), self.settings.bootstrap)
        return Measured(
            columns=self._intervals.columns(sums),
            per_prompt=sums,
            health={name: value for part in parts for name, value in part.health.items()},
            generated_tokens=sum(part.generated_tokens for part in parts),
            scored_tokens=int(self.group.all_reduce_sum(self._scorer.scored)[0]),
            kept=self._kept_responses,
        )

    def _set_per_byte(self, student: LanguageModel) -> None:
        """Log ratios of all pairs or of none: golden, proxy and baseline are in one unit."""
        tokenizers = {self.eval_set.tokenizer_of(role) for role in self._roles} | {student.tokenizer.fingerprint()}
        per_byte = self.settings.per_byte or len(tokenizers) > 1
        if per_byte != self._per_byte:
            self._per_byte, self._baseline = per_byte, None

    def _parts(self, student: LanguageModel, progress: Progress) -> Iterator[tuple[str, Callable[[], Part]]]:
        """Each part by a name, to be measured in this order."""
        for role in self._models:
            yield f"fixed/{role}", partial(self._on_fixed, role, student)
        if self._has_human:
            yield "human", partial(self._likelihood, student)
        if self.settings.student_samples:
            yield "samples", partial(self._on_samples, student, progress)
        yield "baseline", self._of_baseline

    def _on_fixed(self, role: Role, model: LanguageModel, *, baseline: bool = False) -> Part:
        """Distance of `model` from reference `role` on that reference's own responses."""
        if not self._scorer.shares_ids(role, model):
            kept = self._kept_responses if role is self._kept_responses.reference and not baseline else None
            return self._across.on_fixed(role, model, kept, baseline=baseline)
        sequences, totals = self.eval_set.sequences(role), self._totals()
        health = FixedHealth() if self.settings.health and not baseline else None
        with counting_experts(model.routers if health else None) as experts_LE:
            for number, part in self._scorer.batches(sequences):
                batch = Batch.of(part, model.device)
                reference_NV = self._scorer.of_fixed(role, number, batch)
                model_NV = self._scorer.of_model(model, batch, baseline=baseline)
                nats_ND = self._compared(reference_NV, model_NV, batch, writer_NV=reference_NV)
                totals.add(part, nats_ND)
                if role is self._kept_responses.reference and not baseline:
                    self._kept_responses.add(role, part, nats_ND[:, 0])
                if health is not None:
                    health.add(part, reference_NV, model_NV, nats_ND[:, 0])
        sums = self._named(totals, sequences, model, role, "reference_sampled", baseline=baseline)
        return Part(sums=sums, health=health.columns(role, self.group, experts_LE) if health else {})

    def _likelihood(self, model: LanguageModel, *, baseline: bool = False) -> Part:
        """−log q of every token that people wrote, on the ids that the tokenizer knows."""
        score = partial(self._scorer.of_model, model, baseline=baseline)
        name = MetricName(role=Role.ORACLE, baseline=baseline, reduction=None).against(Role.HUMAN)
        if not self._per_byte:
            sequences = self.eval_set.sequences(Role.HUMAN)
            return Part(sums={name: self._scorer.likelihoods(sequences, model.device, score)})
        reading = self._readings.of(Role.HUMAN, model.tokenizer)
        return Part(sums={name: reading.of_writer(self._scorer.likelihoods(reading.read, model.device, score))})

    def _on_samples(self, student: LanguageModel, progress: Progress) -> Part:
        """Distance from every reference on the student's own responses: one pass of the student for all."""
        sequences = self._student_samples(student, progress)
        roles = [role for role in self._models if self._scorer.shares_ids(role, student)]
        totals = {role: self._totals() for role in roles}
        entropy_nats = 0.0
        for _, part in self._scorer.batches(sequences) if roles or self.settings.health else ():
            batch = Batch.of(part, student.device)
            student_NV = self._scorer.of_model(student, batch)
            entropy_nats += float(entropies(student_NV).sum()) if self.settings.health else 0.0
            for role in roles:
                reference_NV = self._scorer.of_reference(role, batch)
                nats_ND = self._compared(reference_NV, student_NV, batch, writer_NV=student_NV)
                totals[role].add(part, nats_ND)
                if role is self._kept_responses.reference:
                    self._kept_responses.add(None, part, nats_ND[:, 0])
        sums: dict[MetricName, PromptSums] = {}
        for role, total in totals.items():
            sums |= self._named(total, sequences, student, role, "student_sampled")
        others = [role for role in self._models if role not in roles]
        across = self._across.on_samples(student, sequences, others, self._kept_responses)
        written = [s.response_ids for s in sequences]
        num_tokens = sum(map(len, written))
        health = dict(across.health)
        if self.settings.health:
            health |= sample_health(
                written,
                ends=student.tokenizer.ends,
                max_new_tokens=self.eval_set.origin.longest,
                entropy=self.group.all_reduce_sum(entropy_nats)[0] / num_tokens,
            )
        return Part(sums={**sums, **across.sums}, health=health, generated_tokens=num_tokens)

    def _student_samples(self, student: LanguageModel, progress: Progress) -> list[TokenSequence]:
        request = GenerationRequest(
            sampling=SamplingSettings(),
            max_new_tokens=self.eval_set.origin.longest,
            seed=self.seed,
            epoch=EVALUATION_STREAM,
        )
        prompts = self._readings.prompts(student.tokenizer)
        examples = np.arange(len(self.eval_set))
        responses = generate(
            student,
            prompts,
            request,
            examples=examples,
            progress=progress,
            task="responses of the student",
            group=self.group,
        )
        return self.eval_set.sequences_of(responses, student.tokenizer.fingerprint(), prompts)

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

    def _on_teacher_responses(self, role: Role, teacher: LanguageModel) -> Mapping[MetricName, PromptSums]:
        """Distance of the teacher from reference `role` on the teacher's fixed responses."""
        if not self._scorer.shares_ids(role, teacher):
            return self._across.on_teacher_responses(role, teacher).sums
        sequences, totals = self.eval_set.sequences(Role.TEACHER), self._totals()
        for number, part in self._scorer.batches(sequences):
            batch = Batch.of(part, teacher.device)
            teacher_NV = self._scorer.of_fixed(Role.TEACHER, number, batch)
            reference_NV = self._scorer.of_reference(role, batch)
            totals.add(part, self._compared(reference_NV, teacher_NV, batch, writer_NV=teacher_NV))
        return self._named(totals, sequences, teacher, role, "student_sampled", baseline=True)

    def _totals(self) -> PromptTotals:
        return PromptTotals(len(self.eval_set), num_values=len(DIVERGENCES) + self._per_byte)

    def _compared(self, reference_NV: Tensor, model_NV: Tensor, batch: Batch, *, writer_NV: Tensor) -> Tensor:
        """nats_ND of every row: the three divergences, and where it is asked for the log ratio of who wrote it."""
        nats_N3 = three_divergences(reference_NV, model_NV)
        if not self._per_byte:
            return nats_N3
        other_NV = model_NV if writer_NV is reference_NV else reference_NV
        ratio_N = log_ratios(writer_NV, other_NV, batch.labels_N)
        return torch.cat([nats_N3, ratio_N[:, None]], dim=1)

    def _named(
        self,
        totals: PromptTotals,
        sequences: Sequence[TokenSequence],
        model: LanguageModel,
        role: Role,
        responses: Responses,
        *,
        baseline: bool = False,
    ) -> dict[MetricName, PromptSums]:
        """`sequences`: what was summed up, in the ids of `model`."""
        tokenizer = model.tokenizer
        bytes_P = self._readings.between(sequences, tokenizer, tokenizer).bytes_P if self._per_byte else None
        found = by_divergence(totals.of_all_ranks(self.group), bytes_P)
        return {
            MetricName(role=role, divergence=name, responses=responses, reduction=None, baseline=baseline): sums
            for name, sums in found.items()
        }
