"""Golden and proxy: one distance between the student and a reference, with two references.

B sequences, N response tokens packed, V vocabulary, P prompts of the evaluation set. A column's name says all:

    golden | proxy | baseline    reference is the oracle | the teacher | baseline: KL(oracle‖teacher) and kin
    judge | judge_baseline       a stronger model in the oracle's role, where there is no oracle
    human | human_baseline       negative_log_likelihood of responses that people wrote | the teacher's
    forward_kl | reverse_kl | jsd    KL(reference‖model), KL(model‖reference), JSD at β = ½; full vocabulary
    reference_sampled | student_sampled    on the reference's fixed responses, or on the model's own
    token_mean | sequence_sum        Σ nats / Σ tokens, or mean over prompts of the sum per response

`baseline` measures the teacher in the student's place ("student_sampled": its fixed responses), and is the
same in every row. Never on a cache: truncation would show as curvature (pitfall 26). A negative log-likelihood
holds the entropy of human text: its differences are those of KL(people‖model), its level is not.
`health/…`, beside them, is explained in health.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thack.config import EvaluationSettings, SamplingSettings
from thack.data.sequence import TokenSequence
from thack.errors import ModelError, UsageError
from thack.evaluation.bootstrap import interval, resamples
from thack.evaluation.eval_set import HUMAN, EvalSet, Writer
from thack.evaluation.health import FixedHealth, entropies, sample_health
from thack.generation.sampler import GenerationRequest, generate
from thack.losses import cross_entropy
from thack.losses.vocabulary import common_width, log_probs
from thack.models.batch import Batch
from thack.models.load import as_language_model
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import SILENT, Progress

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
NORMALISATIONS = ("token_mean", "sequence_sum")
METRIC_OF: dict[Writer, str] = {"oracle": "golden", "judge": "judge", "teacher": "proxy"}
LINE_OF: dict[Writer, str] = {"oracle": "baseline", "judge": "judge_baseline"}
LIKELIHOOD = "negative_log_likelihood/reference_sampled"
# Elements of one [n, V] temporary: on a CPU it stays in the second-level cache, elsewhere it fills the device.
_CHUNK_ELEMENTS, _CHUNK_ELEMENTS_OF_A_DEVICE = 1 << 18, 1 << 25
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
    elements = _CHUNK_ELEMENTS if log_p_NV.device.type == "cpu" else _CHUNK_ELEMENTS_OF_A_DEVICE
    step = max(1, elements // log_p_NV.shape[1])
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
    """Evaluates students on one eval set; what the references say of their own fixed responses is kept in memory."""

    eval_set: EvalSet
    teacher: LanguageModel | None
    oracle: LanguageModel | None
    settings: EvaluationSettings
    seed: int = 0
    judge: LanguageModel | None = None
    memory_bytes: int = _MEMORY_BYTES
    group: ProcessGroup = ALONE  # ranks share the batches; the columns are those of one process, to the bit
    _kept: dict[tuple[Writer, int], Tensor] = field(default_factory=dict)
    _kept_bytes: int = 0
    _line: dict[str, PerPrompt] | None = None
    _weights_SP: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.references and HUMAN not in self.eval_set.responses:
            raise UsageError("evaluating needs a teacher (proxy) or an oracle (golden)")
        for role, model in self.references.items():
            self.eval_set.check_writer(role, model)
            self.eval_set.check_tokenizer(role, model.tokenizer)

    @property
    def references(self) -> dict[Writer, LanguageModel]:
        given: dict[Writer, LanguageModel | None] = {
            "oracle": self.oracle,
            "judge": self.judge,
            "teacher": self.teacher,
        }
        return {role: model for role, model in given.items() if model is not None}

    def evaluate(self, student: LanguageModel, progress: Progress = SILENT) -> Evaluation:
        """All columns for this student; its train mode and the global random state are left as they were."""
        self.eval_set.check_tokenizer("student", student.tokenizer)
        was_training = bool(getattr(student, "training", False))
        student.eval()
        health: dict[str, float] = {}
        try:
            # Not inference_mode: what a live trainer's model keeps of it could not be used in a backward.
            with torch.no_grad():
                per_prompt, generated = self._measure(student, health, progress)
        finally:
            student.train(was_training)
        columns = self._columns(per_prompt) | health
        return Evaluation(columns=columns, per_prompt=per_prompt, generated_tokens=generated)

    def _measure(
        self, student: LanguageModel, health: dict[str, float], progress: Progress
    ) -> tuple[dict[str, PerPrompt], int]:
        per_prompt: dict[str, PerPrompt] = {}
        for role in self.references:
            seen = FixedHealth() if self.settings.health else None
            per_prompt |= self._on_fixed(METRIC_OF[role], role, student, "reference_sampled", seen)
            health |= seen.columns(METRIC_OF[role], self.group) if seen else {}
        if HUMAN in self.eval_set.responses:
            per_prompt[f"{HUMAN}/{LIKELIHOOD}"] = self._likelihood(student, "student")
        generated = 0
        if self.settings.student_samples:
            sequences = self._student_samples(student, progress)
            generated = sum(len(s.response_ids) for s in sequences)
            per_prompt |= self._on_samples(student, sequences, health)
        return per_prompt | self._lines(), generated

    def _student_samples(self, student: LanguageModel, progress: Progress) -> list[TokenSequence]:
        request = GenerationRequest(
            sampling=SamplingSettings(),
            max_new_tokens=self._max_new_tokens,
            seed=self.seed,
            epoch=len(METRIC_OF),  # after the evaluation set's own writers: other random numbers than theirs
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

    @property
    def _max_new_tokens(self) -> int:
        return int(self.eval_set.origin.get("max_new_tokens", 128))

    def _on_fixed(
        self, metric: str, role: Writer, model: LanguageModel, samples: str, health: FixedHealth | None = None
    ) -> dict[str, PerPrompt]:
        """Distance of `model` from reference `role` on that reference's own responses."""
        sums = _Sums(len(self.eval_set), self.group)
        width = self._width(model)
        for number, sequences in self._batches(self.eval_set.sequences(role)):
            batch = Batch.of(sequences, model.device)
            reference_NV = self._reference(role, number, batch, width)
            model_NV = _log_probs(model, batch, width, "student")
            nats_N3 = three_divergences(reference_NV, model_NV)
            sums.add(sequences, batch, nats_N3)
            if health is not None:
                health.add(sequences, reference_NV, model_NV, nats_N3[:, 0])
        return sums.columns(metric, samples)

    def _likelihood(self, model: LanguageModel, role: str) -> PerPrompt:
        """−log q of every token that people wrote, on the ids that the tokenizer knows."""
        nats_P, tokens_P = np.zeros(len(self.eval_set)), np.zeros(len(self.eval_set), dtype=np.int64)
        for _, sequences in self._batches(self.eval_set.sequences(HUMAN)):
            batch = Batch.of(sequences, model.device)
            log_q_NV = _log_probs(model, batch, model.tokenizer.size, role)
            nats_N = cross_entropy(log_q_NV, batch.labels_N).double().cpu().numpy()
            prompt_N = np.repeat([s.example for s in sequences], [len(s.response_ids) for s in sequences])
            nats_P += np.bincount(prompt_N, weights=nats_N, minlength=len(nats_P))
            tokens_P += np.bincount(prompt_N, minlength=len(tokens_P))
        return PerPrompt(nats_P=self.group.all_reduce_array(nats_P), tokens_P=self.group.all_reduce_array(tokens_P))

    def _on_samples(
        self, student: LanguageModel, sequences: Sequence[TokenSequence], health: dict[str, float]
    ) -> dict[str, PerPrompt]:
        """Distance from every reference on the student's own responses: one student pass for all."""
        sums = {role: _Sums(len(self.eval_set), self.group) for role in self.references}
        width = self._width(student)
        entropy_nats = 0.0
        for _, part in self._batches(sequences):
            batch = Batch.of(part, student.device)
            student_NV = _log_probs(student, batch, width, "student")
            entropy_nats += float(entropies(student_NV).sum()) if self.settings.health else 0.0
            for role, model in self.references.items():
                reference_NV = _log_probs(model, batch, width, role)
                sums[role].add(part, batch, three_divergences(reference_NV, student_NV))
        columns: dict[str, PerPrompt] = {}
        for role, total in sums.items():
            columns |= total.columns(METRIC_OF[role], "student_sampled")
        if self.settings.health:
            written = [s.response_ids for s in sequences]
            health |= sample_health(
                written,
                stop_ids=student.tokenizer.stop_ids,
                max_new_tokens=self._max_new_tokens,
                entropy=self.group.all_reduce_sum(entropy_nats)[0] / sum(map(len, written)),
            )
        return columns

    def _lines(self) -> dict[str, PerPrompt]:
        """The teacher in the student's place, measured once: where a perfect copy of it would end."""
        if self.teacher is None:
            return {}
        if self._line is None:
            self._line = {}
            for role, name in LINE_OF.items():
                if role in self.references:
                    self._line |= self._line_of(role, name, self.teacher)
            if HUMAN in self.eval_set.responses:
                self._line[f"{HUMAN}_baseline/{LIKELIHOOD}"] = self._likelihood(self.teacher, "teacher")
        return self._line

    def _line_of(self, role: Writer, name: str, teacher: LanguageModel) -> dict[str, PerPrompt]:
        fixed = self._on_fixed(name, role, teacher, "reference_sampled")
        sums = _Sums(len(self.eval_set), self.group)
        width = self._width(teacher)
        for number, sequences in self._batches(self.eval_set.sequences("teacher")):
            batch = Batch.of(sequences, teacher.device)
            teacher_NV = self._reference("teacher", number, batch, width)
            reference_NV = _log_probs(self.references[role], batch, width, role)
            sums.add(sequences, batch, three_divergences(reference_NV, teacher_NV))
        return fixed | sums.columns(name, "student_sampled")

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

    def _batches(self, sequences: Sequence[TokenSequence]) -> Iterator[tuple[int, list[TokenSequence]]]:
        """This rank's of the fixed, numbered batches of similar length: the same sequences always meet in one."""
        order = sorted(sequences, key=lambda s: (len(s.prompt_ids) + len(s.response_ids), s.example))
        for number, start in enumerate(range(0, len(order), self.settings.batch_size)):
            if self.group.owns(number):
                yield number, order[start : start + self.settings.batch_size]

    def _columns(self, per_prompt: dict[str, PerPrompt]) -> dict[str, float]:
        if self._weights_SP is None:
            self._weights_SP = resamples(len(self.eval_set), self.settings.bootstrap)
        columns: dict[str, float] = {}
        for name, values in per_prompt.items():
            total, tokens = values.nats_P.sum(), values.tokens_P.sum()
            points = {"token_mean": total / tokens, "sequence_sum": total / len(self.eval_set)}
            bounds = interval(values.nats_P, values.tokens_P, self._weights_SP)
            for normalisation in NORMALISATIONS:
                column = f"{name}/{normalisation}"
                low, high = bounds[normalisation]
                columns |= {column: float(points[normalisation]), f"{column}/low": low, f"{column}/high": high}
        return columns


class _Sums:
    """Per-prompt sums of the three divergences, in float64."""

    def __init__(self, num_prompts: int, group: ProcessGroup) -> None:
        self.group = group
        self.nats_3P = np.zeros((3, num_prompts))
        self.tokens_P = np.zeros(num_prompts, dtype=np.int64)

    def add(self, sequences: Sequence[TokenSequence], batch: Batch, nats_N3: Tensor) -> None:
        prompt_N = np.repeat([s.example for s in sequences], [len(s.response_ids) for s in sequences])
        values_N3 = nats_N3.double().cpu().numpy()
        for row, nats_P in enumerate(self.nats_3P):
            nats_P += np.bincount(prompt_N, weights=values_N3[:, row], minlength=len(nats_P))
        self.tokens_P += np.bincount(prompt_N, minlength=len(self.tokens_P))

    def columns(self, metric: str, samples: str) -> dict[str, PerPrompt]:
        """Over all ranks: every prompt was summed by one of them."""
        nats_3P, tokens_P = self.group.all_reduce_array(self.nats_3P), self.group.all_reduce_array(self.tokens_P)
        return {
            f"{metric}/{divergence}/{samples}": PerPrompt(nats_P=nats_P, tokens_P=tokens_P)
            for divergence, nats_P in zip(DIVERGENCES, nats_3P, strict=True)
        }


def _log_probs(model: LanguageModel, batch: Batch, width: int, role: str) -> Tensor:
    if batch.device != model.device:  # a teacher of many devices begins where it likes
        own = {name: getattr(batch, name).to(model.device) for name in ("labels_N", "lengths_B", "sequence_of_N")}
        return _log_probs(model, replace(batch, **own, _layouts={}), width, role).to(batch.device)
    found = log_probs(model(batch), width)
    if torch.isnan(found).any():
        raise ModelError(f"the {role} gives NaN logits", hint="check its weights, or evaluate in float32")
    return found


def evaluate(
    student: Any,
    eval_set: EvalSet,
    *,
    teacher: Any = None,
    oracle: Any = None,
    judge: Any = None,
    tokenizer: Any = None,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Evaluation:
    """Every column for one student; for many checkpoints keep an `Evaluator`, which remembers the references.

    Models are thack's, directories, or plain transformers models (with `tokenizer` where they do not know theirs).
    """
    given = {"teacher": teacher, "oracle": oracle, "judge": judge}
    cast = {
        role: None if model is None else as_language_model(model, tokenizer, role=role) for role, model in given.items()
    }
    evaluator = Evaluator(
        eval_set, cast["teacher"], cast["oracle"], settings or EvaluationSettings(), seed=seed, judge=cast["judge"]
    )
    return evaluator.evaluate(as_language_model(student, tokenizer, role="student"), progress)


def distance(
    student: Any,
    reference: Any,
    eval_set: EvalSet,
    *,
    role: Writer = "teacher",
    tokenizer: Any = None,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """How far `student` is from one `reference` on the evaluation set: golden and proxy are this, with two references.

    Keys are `<divergence>/<whose samples>/<normalisation>`, nats, with `/low` and `/high` of a 95 % interval.
    `role` says whose fixed responses in the evaluation set are the reference's: teacher, oracle or judge.
    """
    settings = replace(settings or EvaluationSettings(), health=False)
    found = evaluate(student, eval_set, tokenizer=tokenizer, settings=settings, seed=seed, **{role: reference})
    prefix = f"{METRIC_OF[role]}/"
    return {name.removeprefix(prefix): value for name, value in found.columns.items() if name.startswith(prefix)}
