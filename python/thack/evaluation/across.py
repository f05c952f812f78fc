"""Log ratios between models whose tokenizers differ: both score the same text, each in its own ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from thack.data.sequence import TokenSequence
from thack.evaluation.kept import Part
from thack.evaluation.readings import Reading, Readings, log_ratio
from thack.evaluation.scoring import Scorer
from thack.models.protocol import LanguageModel
from thack.schema.metrics import LOG_RATIO, HealthName, MetricName, PromptSums, Role


@dataclass(slots=True)
class AcrossTokenizers:
    """Measures where the ids of a reference are not those of a model. References score their own responses once.

    Args:
        scorer: of the models.
        readings: the responses in the ids of each.
    """

    scorer: Scorer
    readings: Readings
    _own: dict[tuple[Role, str], PromptSums] = field(init=False, default_factory=dict)

    def on_fixed(self, role: Role, model: LanguageModel, *, baseline: bool) -> Part:
        """A model on the fixed responses of reference `role`; with `baseline` it is the teacher."""
        reading = self.readings.of(role, model.tokenizer)
        score = partial(self.scorer.of_model, model, baseline=baseline)
        sums = log_ratio(
            reading, self._of_writer(role, model, reading), self.scorer.likelihoods(reading.read, model.device, score)
        )
        name = MetricName(role=role, divergence=LOG_RATIO, reduction=None, baseline=baseline)
        health = {} if baseline else {HealthName(quantity="left_out_share", role=role): reading.left_out_share}
        return Part(sums={name: sums}, health=health)

    def on_teacher_responses(self, role: Role, teacher: LanguageModel) -> Part:
        """Reference `role` on the fixed responses of the teacher, which stands in the student's place."""
        reading = self.readings.of(Role.TEACHER, self.scorer.models[role].tokenizer)
        own = self._of_writer(Role.TEACHER, self.scorer.models[role], reading)
        name = MetricName(role=role, divergence=LOG_RATIO, responses="student_sampled", reduction=None, baseline=True)
        return Part(sums={name: log_ratio(reading, own, self._of_reference(role, reading))})

    def on_samples(self, student: LanguageModel, sequences: Sequence[TokenSequence], roles: Sequence[Role]) -> Part:
        """References on the student's own responses."""
        sums: dict[MetricName, PromptSums] = {}
        left_out = [0.0]
        for role in roles:
            reading = self.readings.between(sequences, student.tokenizer, self.scorer.models[role].tokenizer)
            own = self.scorer.likelihoods(reading.written, student.device, partial(self.scorer.of_model, student))
            name = MetricName(role=role, divergence=LOG_RATIO, responses="student_sampled", reduction=None)
            sums[name] = log_ratio(reading, own, self._of_reference(role, reading))
            left_out.append(reading.left_out_share)
        return Part(sums=sums, health={HealthName(quantity="left_out_share"): max(left_out)} if roles else {})

    def _of_writer(self, role: Role, reader: LanguageModel, reading: Reading) -> PromptSums:
        key = (role, reader.tokenizer.fingerprint())
        if key not in self._own:
            device = self.scorer.models[role].device
            self._own[key] = self.scorer.likelihoods(reading.written, device, partial(self.scorer.of_reference, role))
        return self._own[key]

    def _of_reference(self, role: Role, reading: Reading) -> PromptSums:
        device = self.scorer.models[role].device
        return self.scorer.likelihoods(reading.read, device, partial(self.scorer.of_reference, role))
