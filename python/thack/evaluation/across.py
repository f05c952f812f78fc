"""Log ratios between models whose tokenizers differ: both score the same text, each in its own ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from thack.data.sequence import TokenSequence
from thack.evaluation.chunks import TokenNats, chunk_ratios
from thack.evaluation.kept import Part
from thack.evaluation.readings import Reading, Readings, log_ratio
from thack.evaluation.samples import KeptResponses
from thack.evaluation.scoring import Scorer
from thack.models.protocol import LanguageModel
from thack.schema.metric_rows import PromptSums
from thack.schema.metrics import LOG_RATIO, HealthName, MetricName, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """−log p of a reference's own responses: by prompt, and token by token of the first prompts."""

    sums: PromptSums
    tokens: Mapping[int, np.ndarray]


@dataclass(slots=True)
class AcrossTokenizers:
    """Measures where the ids of a reference are not those of a model. References score their own responses once.

    Args:
        scorer: of the models.
        readings: the responses in the ids of each.
        num_tokens_of: prompts whose responses are scored token by token too.
    """

    scorer: Scorer
    readings: Readings
    num_tokens_of: int
    _own: dict[tuple[Role, str], _Scored] = field(init=False, default_factory=dict)

    def on_fixed(self, role: Role, model: LanguageModel, kept: KeptResponses | None, *, baseline: bool) -> Part:
        """A model on the fixed responses of reference `role`; with `baseline` it is the teacher.

        `kept` takes in the first responses, in the model's tokens.
        """
        reading, tokens = self.readings.of(role, model.tokenizer), TokenNats(self.num_tokens_of)
        score = partial(self.scorer.of_model, model, baseline=baseline)
        own = self._of_writer(role, model, reading)
        sums = log_ratio(reading, own.sums, self.scorer.likelihoods(reading.read, model.device, score, tokens))
        if kept is not None:
            reader = tokens.of_all_ranks(self.scorer.group)
            for pair, _, ratio_R in self._chunks(reading, self.scorer.models[role], model, own.tokens, reader):
                kept.add_one(role, pair[1], ratio_R)
        name = MetricName(role=role, divergence=LOG_RATIO, reduction=None, baseline=baseline)
        health = {} if baseline else {HealthName(quantity="left_out_share", role=role): reading.left_out_share}
        return Part(sums={name: sums}, health=health)

    def on_teacher_responses(self, role: Role, teacher: LanguageModel) -> Part:
        """Reference `role` on the fixed responses of the teacher, which stands in the student's place."""
        reading = self.readings.of(Role.TEACHER, self.scorer.models[role].tokenizer)
        own = self._of_writer(Role.TEACHER, self.scorer.models[role], reading).sums
        name = MetricName(role=role, divergence=LOG_RATIO, responses="student_sampled", reduction=None, baseline=True)
        return Part(sums={name: log_ratio(reading, own, self._of_reference(role, reading))})

    def on_samples(
        self,
        student: LanguageModel,
        sequences: Sequence[TokenSequence],
        roles: Sequence[Role],
        kept: KeptResponses,
    ) -> Part:
        """References on the student's own responses, of which `kept` takes in the first, by its own reference."""
        sums: dict[MetricName, PromptSums] = {}
        left_out = [0.0]
        for role in roles:
            reading = self.readings.between(sequences, student.tokenizer, self.scorer.models[role].tokenizer)
            own, other = TokenNats(self.num_tokens_of), TokenNats(self.num_tokens_of)
            score = partial(self.scorer.of_model, student)
            written = self.scorer.likelihoods(reading.written, student.device, score, own)
            name = MetricName(role=role, divergence=LOG_RATIO, responses="student_sampled", reduction=None)
            sums[name] = log_ratio(reading, written, self._of_reference(role, reading, other))
            if role is kept.reference:
                nats = [tokens.of_all_ranks(self.scorer.group) for tokens in (own, other)]
                for pair, ratio_W, _ in self._chunks(reading, student, self.scorer.models[role], *nats):
                    kept.add_one(None, pair[0], ratio_W)
            left_out.append(reading.left_out_share)
        return Part(sums=sums, health={HealthName(quantity="left_out_share"): max(left_out)} if roles else {})

    def _of_writer(self, role: Role, reader: LanguageModel, reading: Reading) -> _Scored:
        key = (role, reader.tokenizer.fingerprint())
        if key not in self._own:
            device, tokens = self.scorer.models[role].device, TokenNats(self.num_tokens_of)
            score = partial(self.scorer.of_reference, role)
            sums = self.scorer.likelihoods(reading.written, device, score, tokens)
            self._own[key] = _Scored(sums=sums, tokens=tokens.of_all_ranks(self.scorer.group))
        return self._own[key]

    def _of_reference(self, role: Role, reading: Reading, tokens: TokenNats | None = None) -> PromptSums:
        device = self.scorer.models[role].device
        return self.scorer.likelihoods(reading.read, device, partial(self.scorer.of_reference, role), tokens)

    def _chunks(
        self,
        reading: Reading,
        writer: LanguageModel,
        reader: LanguageModel,
        writer_nats: Mapping[int, np.ndarray],
        reader_nats: Mapping[int, np.ndarray],
    ) -> Iterator[tuple[tuple[TokenSequence, TokenSequence], np.ndarray, np.ndarray]]:
        """Written and read response with the ratios at the tokens of each, of the first prompts; on the first rank."""
        for written, read in zip(reading.written, reading.read, strict=True):
            if written.example in writer_nats and self.scorer.group.is_first:
                alignment = self.readings.alignment(written, read, writer.tokenizer, reader.tokenizer)
                nats = writer_nats[written.example], reader_nats[read.example]
                yield (written, read), *chunk_ratios(alignment, *nats)
