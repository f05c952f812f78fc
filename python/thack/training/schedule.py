"""When a run is evaluated: fewer times where evaluations would take most of its work.

Decided by numbers of tokens and weights alone, never by a clock: every rank, and a resumed run, decides alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from thack.config import EvaluationSettings
from thack.data.sequence import TokenSequence
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.references import References
from thack.models.protocol import LanguageModel
from thack.schema.verdict import Margins
from thack.training.plan import evaluation_steps

_STEP_PASSES = 3  # forward and backward, in forwards
_DECODING = 4  # a sampled token costs about as much as this many that are read
_USUAL = Margins()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Weights · tokens that a step and an evaluation multiply."""

    step: float
    evaluation: float

    def share(self, num_steps: int, num_evaluations: int) -> float:
        """Of a run's work, the share of its evaluations."""
        evaluations = self.evaluation * num_evaluations
        return evaluations / (evaluations + self.step * num_steps)


def work_of(
    student: LanguageModel,
    references: References,
    *,
    step: Sequence[TokenSequence],
    live: bool,
    eval_set: EvalSet,
    samples: bool,
    monitored: Sequence[TokenSequence],
) -> Work:
    """An estimate of a run's work.

    Args:
        student: the model that is trained.
        references: the models it is measured against.
        step: sequences of about the length of those in one step.
        live: whether the teacher scores the training batches.
        eval_set: held-out prompts with the references' responses.
        samples: whether an evaluation samples the student.
        monitored: sequences that each of the two training monitors reads.
    """
    weights, others = num_weights(student), {role: num_weights(model) for role, model in references}
    teacher = 0 if references.teacher is None else num_weights(references.teacher)
    prompts = sum(map(len, eval_set.prompts))
    written = {role: sum(map(len, responses)) for role, responses in eval_set.responses.items()}
    work: float = sum(weights * (prompts + tokens) for tokens in written.values())  # the references' own side is kept
    if samples and written:
        longest = max(written.values())
        work += weights * _DECODING * longest + (weights + sum(others.values())) * (prompts + longest)
    work += 2 * weights * _tokens(monitored)
    return Work(step=(_STEP_PASSES * weights + live * teacher) * _tokens(step), evaluation=work)


def num_weights(model: LanguageModel) -> int:
    """Numbers in all of a model's weights."""
    return sum(parameter.numel() for parameter in model.parameters())


def scheduled(settings: EvaluationSettings, total: int, work: Work | None = None) -> list[int]:
    """Steps at which a run of `total` steps is evaluated, 0 and the last among them.

    At most `settings.count` after step 0; with `work`, no more than its share allows, but as many as a verdict needs.
    """
    if settings.every:
        return sorted({*range(0, total, settings.every), total})
    full = evaluation_steps(total, settings.count, settings.spacing)
    if work is None or settings.count < 1:
        return full
    judged = _judged(full)
    for count in range(settings.count, min(settings.count, _USUAL.min_evaluations) - 1, -1):
        steps = evaluation_steps(total, count, settings.spacing)
        if _judged(steps) < min(judged, _USUAL.min_evaluations):
            break
        full = steps
        if work.share(total, len(steps) - 1) <= settings.max_share:
            break
    return full


def _judged(steps: Iterable[int]) -> int:
    return sum(step > _USUAL.warmup_steps for step in steps)


def _tokens(sequences: Sequence[TokenSequence]) -> float:
    return float(np.sum([len(s.prompt_ids) + len(s.response_ids) for s in sequences]))
