"""Golden and proxy: one distance between the student and a reference, with two references.

B sequences, N response tokens packed, V vocabulary, P prompts of the bank. A column's name says all:

    golden | proxy | line        reference is the oracle | the teacher | line: KL(oracle‖teacher) and kin
    forward_kl | reverse_kl | jsd    KL(reference‖model), KL(model‖reference), JSD at β = ½; full vocabulary
    reference_sampled | student_sampled    on the reference's fixed responses, or on the model's own
    token_mean | sequence_sum        Σ nats / Σ tokens, or mean over prompts of the sum per response

`line` measures the teacher in the student's place ("student_sampled": its fixed responses), and is the
same in every row. Never on a cache: truncation would show as curvature (trap 26).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from thack.config.settings import EvaluationSettings, SamplingSettings
from thack.errors import ModelError, UsageError
from thack.losses.vocabulary import common_width, log_probs
from thack.metrics.bank import PromptBank, Writer
from thack.metrics.bootstrap import interval, resamples
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel
from thack.responses.sampler import generate
from thack.runtime.progress import SILENT, Progress
from thack.targets import TokenSequence

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
NORMALISATIONS = ("token_mean", "sequence_sum")
METRIC_OF: dict[Writer, str] = {"oracle": "golden", "teacher": "proxy"}
_CHUNK_ELEMENTS = 1 << 18  # of one [n, V] temporary: stays in the second-level cache
_MEMORY_BYTES = 1 << 30  # reference log-probabilities kept between evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class PerPrompt:
    """Sums over each prompt's response, before any normalisation."""

    nats_P: np.ndarray  # float64
    tokens_P: np.ndarray  # int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All columns with their intervals (`<column>/low`, `<column>/high`), and what they were made from."""

    columns: dict[str, float]
    per_prompt: dict[str, PerPrompt]
    generated_tokens: int = 0

    def per_prompt_row(self, step: int) -> dict[str, object]:
        """The line of per_prompt.jsonl."""
        rows = {
            name: {"nats": values.nats_P.tolist(), "tokens": values.tokens_P.tolist()}
            for name, values in self.per_prompt.items()
        }
        return {"step": step, **rows}


def three_divergences(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """nats_N3: KL(p‖q), KL(q‖p) and JSD(p, q; β = ½) per row.

    Outcomes without mass on the side that weights them add exactly 0, also where both are −inf.
    """
    nats_N3 = torch.empty(log_p_NV.shape[0], 3, dtype=log_p_NV.dtype, device=log_p_NV.device)
    step = max(1, _CHUNK_ELEMENTS // log_p_NV.shape[1])
    for start in range(0, log_p_NV.shape[0], step):
        rows = slice(start, start + step)
        nats_N3[rows] = _three(log_p_NV[rows], log_q_NV[rows])
    return nats_N3


def _three(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    p_NV, q_NV = log_p_NV.exp(), log_q_NV.exp()
    ratio_NV = log_p_NV - log_q_NV
    log_m_NV = (p_NV + q_NV).mul_(0.5).log_()
    parts = (
        _weighted_sum(p_NV, ratio_NV),
        -_weighted_sum(q_NV, ratio_NV),
        (_weighted_sum(p_NV, log_p_NV - log_m_NV) + _weighted_sum(q_NV, log_q_NV - log_m_NV)) / 2,
    )
    return torch.stack(parts, dim=1)


def _weighted_sum(weights_NV: Tensor, values_NV: Tensor) -> Tensor:
    sums_N: Tensor = torch.linalg.vecdot(weights_NV, values_NV)
    if torch.isfinite(sums_N).all():
        return sums_N
    return torch.where(weights_NV > 0, weights_NV * values_NV, 0).sum(dim=1)


@dataclass(slots=True)
class Evaluator:
    """Evaluates students on one bank; what the references say of their own fixed responses is kept in memory."""

    bank: PromptBank
    teacher: LanguageModel | None
    oracle: LanguageModel | None
    settings: EvaluationSettings
    seed: int = 0
    memory_bytes: int = _MEMORY_BYTES
    _kept: dict[tuple[Writer, int], Tensor] = field(default_factory=dict)
    _kept_bytes: int = 0
    _line: dict[str, PerPrompt] | None = None
    _weights_SP: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.references:
            raise UsageError("evaluating needs a teacher (proxy) or an oracle (golden)")
        for role, model in self.references.items():
            self.bank.check_writer(role, model)
            self.bank.check_tokenizer(role, model.tokenizer)

    @property
    def references(self) -> dict[Writer, LanguageModel]:
        given: dict[Writer, LanguageModel | None] = {"oracle": self.oracle, "teacher": self.teacher}
        return {role: model for role, model in given.items() if model is not None}

    def evaluate(self, student: LanguageModel, progress: Progress = SILENT) -> Evaluation:
        """All columns for this student; its train mode and the global random state are left as they were."""
        self.bank.check_tokenizer("student", student.tokenizer)
        was_training = bool(getattr(student, "training", False))
        student.eval()
        try:
            with torch.inference_mode():
                per_prompt, generated = self._measure(student, progress)
        finally:
            student.train(was_training)
        return Evaluation(columns=self._columns(per_prompt), per_prompt=per_prompt, generated_tokens=generated)

    def _measure(self, student: LanguageModel, progress: Progress) -> tuple[dict[str, PerPrompt], int]:
        per_prompt: dict[str, PerPrompt] = {}
        for role in self.references:
            per_prompt |= self._on_fixed(METRIC_OF[role], role, student, "reference_sampled")
        generated = 0
        if self.settings.student_samples:
            sequences = self._student_samples(student, progress)
            generated = sum(len(s.response_ids) for s in sequences)
            per_prompt |= self._on_samples(student, sequences)
        return per_prompt | self._line_per_prompt(), generated

    def _student_samples(self, student: LanguageModel, progress: Progress) -> list[TokenSequence]:
        longest = int(self.bank.origin.get("max_new_tokens", 128))
        responses = generate(
            student,
            self.bank.prompts,
            indices=np.arange(len(self.bank)),
            max_new_tokens=longest,
            sampling=SamplingSettings(),
            seed=self.seed,
            epoch=len(METRIC_OF),  # after the bank's own writers: other random numbers than theirs
            progress=progress,
        )
        return self.bank.sequences_of(responses)

    def _on_fixed(self, metric: str, role: Writer, model: LanguageModel, samples: str) -> dict[str, PerPrompt]:
        """Distance of `model` from reference `role` on that reference's own responses."""
        sums = _Sums(len(self.bank))
        width = self._width(model)
        for number, sequences in enumerate(self._batches(self.bank.sequences(role))):
            batch = Batch.of(sequences, model.device)
            reference_NV = self._reference(role, number, batch, width)
            sums.add(sequences, batch, three_divergences(reference_NV, _log_probs(model, batch, width, "student")))
        return sums.columns(metric, samples)

    def _on_samples(self, student: LanguageModel, sequences: Sequence[TokenSequence]) -> dict[str, PerPrompt]:
        """Distance from every reference on the student's own responses: one student pass for all."""
        sums = {role: _Sums(len(self.bank)) for role in self.references}
        width = self._width(student)
        for part in self._batches(sequences):
            batch = Batch.of(part, student.device)
            student_NV = _log_probs(student, batch, width, "student")
            for role, model in self.references.items():
                reference_NV = _log_probs(model, batch, width, role)
                sums[role].add(part, batch, three_divergences(reference_NV, student_NV))
        columns: dict[str, PerPrompt] = {}
        for role, total in sums.items():
            columns |= total.columns(METRIC_OF[role], "student_sampled")
        return columns

    def _line_per_prompt(self) -> dict[str, PerPrompt]:
        """The teacher in the student's place, measured once."""
        if self.oracle is None or self.teacher is None:
            return {}
        if self._line is None:
            line = self._on_fixed("line", "oracle", self.teacher, "reference_sampled")
            sums = _Sums(len(self.bank))
            width = self._width(self.teacher)
            for number, sequences in enumerate(self._batches(self.bank.sequences("teacher"))):
                batch = Batch.of(sequences, self.teacher.device)
                teacher_NV = self._reference("teacher", number, batch, width)
                sums.add(
                    sequences, batch, three_divergences(_log_probs(self.oracle, batch, width, "oracle"), teacher_NV)
                )
            self._line = line | sums.columns("line", "student_sampled")
        return self._line

    def _width(self, student: LanguageModel) -> int:
        """One width for all three models, so that golden, proxy and line are about the same outcomes."""
        widths = {role: model.vocab_size for role, model in self.references.items()}
        return common_width(student.tokenizer.size, student=student.vocab_size, **widths)

    def _reference(self, role: Writer, number: int, batch: Batch, width: int) -> Tensor:
        """log_probs_NV of a reference on batch `number` of its fixed responses, from memory where they fit."""
        kept = self._kept.get((role, number))
        if kept is not None and kept.shape[1] == width:
            return kept
        found = _log_probs(self.references[role], batch, width, role)
        if self._kept_bytes + found.nbytes <= self.memory_bytes:
            self._kept[role, number] = found
            self._kept_bytes += found.nbytes
        return found

    def _batches(self, sequences: Sequence[TokenSequence]) -> Iterator[list[TokenSequence]]:
        """Fixed batches of similar length: the same sequences always meet in the same batch."""
        order = sorted(sequences, key=lambda s: (len(s.prompt_ids) + len(s.response_ids), s.index))
        for start in range(0, len(order), self.settings.batch_size):
            yield order[start : start + self.settings.batch_size]

    def _columns(self, per_prompt: dict[str, PerPrompt]) -> dict[str, float]:
        if self._weights_SP is None:
            self._weights_SP = resamples(len(self.bank), self.settings.bootstrap)
        columns: dict[str, float] = {}
        for name, values in per_prompt.items():
            total, tokens = values.nats_P.sum(), values.tokens_P.sum()
            points = {"token_mean": total / tokens, "sequence_sum": total / len(self.bank)}
            bounds = interval(values.nats_P, values.tokens_P, self._weights_SP)
            for normalisation in NORMALISATIONS:
                column = f"{name}/{normalisation}"
                low, high = bounds[normalisation]
                columns |= {column: float(points[normalisation]), f"{column}/low": low, f"{column}/high": high}
        return columns


class _Sums:
    """Per-prompt sums of the three divergences, in float64."""

    def __init__(self, num_prompts: int) -> None:
        self.nats_3P = np.zeros((3, num_prompts))
        self.tokens_P = np.zeros(num_prompts, dtype=np.int64)

    def add(self, sequences: Sequence[TokenSequence], batch: Batch, nats_N3: Tensor) -> None:
        prompt_N = np.repeat([s.index for s in sequences], [len(s.response_ids) for s in sequences])
        values_N3 = nats_N3.double().cpu().numpy()
        for row, nats_P in enumerate(self.nats_3P):
            nats_P += np.bincount(prompt_N, weights=values_N3[:, row], minlength=len(nats_P))
        self.tokens_P += np.bincount(prompt_N, minlength=len(self.tokens_P))

    def columns(self, metric: str, samples: str) -> dict[str, PerPrompt]:
        return {
            f"{metric}/{divergence}/{samples}": PerPrompt(nats_P=nats_P, tokens_P=self.tokens_P)
            for divergence, nats_P in zip(DIVERGENCES, self.nats_3P, strict=True)
        }


def _log_probs(model: LanguageModel, batch: Batch, width: int, role: str) -> Tensor:
    found = log_probs(model(batch), width)
    if torch.isnan(found).any():
        raise ModelError(f"the {role} gives NaN logits", hint="check its weights, or evaluate in float32")
    return found


def evaluate(
    student: LanguageModel,
    bank: PromptBank,
    *,
    teacher: LanguageModel | None = None,
    oracle: LanguageModel | None = None,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Evaluation:
    """Every column for one student; for many checkpoints keep an `Evaluator`, which remembers the references."""
    evaluator = Evaluator(bank, teacher, oracle, settings or EvaluationSettings(), seed=seed)
    return evaluator.evaluate(student, progress)
