"""The proxy metric: the distance from the student to its teacher, which is what training makes small."""

from __future__ import annotations

from collections.abc import Mapping

from thack.config import EvaluationSettings
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.measure import distance
from thack.evaluation.references import ModelLike, TokenizerLike
from thack.schema.metrics import MetricName, Role


def proxy(
    student: ModelLike,
    teacher: ModelLike,
    eval_set: EvalSet,
    *,
    tokenizer: TokenizerLike = None,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
) -> Mapping[MetricName, float]:
    """How far a student is from its teacher on held-out prompts.

    The metric is KL(teacher‖student), per token of the teacher's responses. It is golden with another reference.

    Args:
        student: A model of thack's, a plain transformers model, a directory, or a name on the hub.
        teacher: The same.
        eval_set: Held-out prompts with the teacher's fixed responses.
        tokenizer: For transformers models that do not know theirs.
        settings: Batch size, whether to sample the student, resamples of the intervals.
        seed: Of the student's own responses.

    Returns:
        Every divergence in nats, with both ends of its 95 % interval. Verdicts read `schema.metrics.PROXY`.

    Raises:
        UsageError: `eval_set` holds no responses of the teacher.
        MismatchError: the teacher did not write them, or a tokenizer differs.
        ModelError: a model gives NaN.

    Example:
        >>> proxy(student, teacher, eval_set)[PROXY] > 0
        True
    """
    return distance(student, teacher, eval_set, role=Role.TEACHER, tokenizer=tokenizer, settings=settings, seed=seed)
