"""The golden metric: the distance from the student to the oracle, which is what one wants to be small."""

from __future__ import annotations

from collections.abc import Mapping

from thack.config import EvaluationSettings
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.measure import distance
from thack.evaluation.references import ModelLike, TokenizerLike
from thack.schema.metrics import MetricName, Role


def golden(
    student: ModelLike,
    oracle: ModelLike,
    eval_set: EvalSet,
    *,
    tokenizer: TokenizerLike = None,
    settings: EvaluationSettings | None = None,
    seed: int = 0,
) -> Mapping[MetricName, float]:
    """How far a student is from the oracle on held-out prompts.

    The metric is KL(oracle‖student), per token of the oracle's responses. It is the proxy with another reference.

    Args:
        student: A model of thack's, a plain transformers model, a directory, or a name on the hub.
        oracle: The same.
        eval_set: Held-out prompts with the oracle's fixed responses.
        tokenizer: For transformers models that do not know theirs.
        settings: Batch size, whether to sample the student, resamples of the intervals.
        seed: Of the student's own responses.

    Returns:
        Every divergence in nats, with both ends of its 95 % interval. Verdicts read `schema.metrics.GOLDEN`.

    Raises:
        UsageError: `eval_set` holds no responses of the oracle.
        MismatchError: the oracle did not write them, or a tokenizer differs.
        ModelError: a model gives NaN.

    Example:
        >>> golden(student, oracle, eval_set)[GOLDEN] > 0
        True
    """
    return distance(student, oracle, eval_set, role=Role.ORACLE, tokenizer=tokenizer, settings=settings, seed=seed)
