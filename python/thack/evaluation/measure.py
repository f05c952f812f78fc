"""One student on an evaluation set: all columns, or those of one reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from thack.config import EvaluationSettings
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.measured import Measured
from thack.evaluation.references import ModelLike, References, TokenizerLike
from thack.models.load import as_language_model
from thack.runtime.progress import SILENT, Progress
from thack.schema.metrics import MetricName, Role


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
