"""Models: fine-tuning, distillation, evaluation, and what is made of the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from thack.config import DistillSettings, EvaluateSettings, MergeSettings, PushSettings, SftSettings, checked
from thack.errors import UsageError
from thack.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from thack.schema.evaluation import EvaluationResult
    from thack.schema.publication import PushResult
    from thack.training import RunResult


def sft(settings: SftSettings, *, progress: Progress = SILENT) -> Path:
    """Train a model on prompts with responses. A run that was stopped is resumed.

    Args:
        settings: Data, model, training; see `SftSettings`.
        progress: Where progress goes.

    Returns:
        The directory of the trained model.

    Raises:
        UsageError: Settings that contradict each other, or a run with other settings in `out`.
        DataError: Data that cannot be read.
        ModelError: A model that cannot be loaded.

    Example:
        >>> data = thack.DataSettings(path="data/pairs.jsonl", limit=64, max_response_tokens=16)
        >>> thack.sft(thack.SftSettings(data=data, out=Path("runs/teacher"), tokenizer_size=320, epochs=1))
        PosixPath('runs/teacher/model')
    """
    from thack.checks import check_sft

    settings = check_sft(checked(settings))
    from thack.training import run_sft

    return run_sft(settings, progress=progress)


def distill(settings: DistillSettings, *, progress: Progress = SILENT) -> RunResult:
    """Train a student to match a teacher, from a cache or live. A run that was stopped is resumed.

    Args:
        settings: Student, teacher or cache, data, loss, evaluation; see `DistillSettings`.
        progress: Where progress goes.

    Returns:
        The run's directory, the student's directory, and the number of optimizer steps.

    Raises:
        UsageError: Settings that contradict each other, or a run with other settings in `out`.
        MismatchError: Models or data that do not belong together.
        UndefinedLoss: A divergence that the target does not support.
        DivergedError: The loss became NaN or infinite.
        Preempted: Stopped by a signal after a checkpoint was written.

    Example:
        >>> result = thack.distill(
        ...     thack.DistillSettings(
        ...         cache="cache",
        ...         student="runs/teacher/model",
        ...         loss=thack.LossSettings(divergence="jsd", beta=0.5),
        ...         steps=2,
        ...         out=Path("runs/a"),
        ...     )
        ... )
        >>> result.steps
        2
    """
    from thack.checks import check_distill

    settings = check_distill(checked(settings))
    from thack.training import run_distill

    return run_distill(settings, progress=progress)


def evaluate(settings: EvaluateSettings, *, progress: Progress = SILENT) -> EvaluationResult:
    """Measure the golden and proxy metrics of a student on a frozen evaluation set of held-out prompts.

    Args:
        settings: Student, its references, the held-out prompts; see `EvaluateSettings`.
        progress: Where progress goes.

    Returns:
        Models, evaluation set, metrics in nats and per-prompt sums, as they are written to `out`.

    Raises:
        UsageError: No student or no held-out prompts.
        ModelError: A model that gives NaN.

    Example:
        >>> result = thack.evaluate(
        ...     thack.EvaluateSettings(
        ...         student="runs/a/model",
        ...         teacher="runs/teacher/model",
        ...         eval_data="data/held_out.jsonl",
        ...         data=thack.DataSettings(limit=4, max_response_tokens=4),
        ...     )
        ... )
        >>> 0 <= result.columns["proxy/forward_kl/reference_sampled/token_mean"]
        True
    """
    from thack.checks import check_evaluate

    settings = check_evaluate(checked(settings))
    from thack.evaluation import run_evaluate

    return run_evaluate(settings, progress=progress)


def merge(settings: MergeSettings, *, progress: Progress = SILENT) -> str:
    """Write an adapter of peft and its base model as one model, which transformers and vLLM open.

    Args:
        settings: The adapter and the output; see `MergeSettings`.
        progress: Where progress goes.

    Returns:
        The fingerprint of the merged model.

    Raises:
        UsageError: There is no adapter, or `out` exists.
        ModelError: The adapter or its base model cannot be loaded.

    Example:
        >>> thack.merge(thack.MergeSettings(model="runs/teacher", out=Path("merged")))
        Traceback (most recent call last):
        thack.errors.UsageError: runs/teacher holds no adapter: there is nothing to merge
          it can be used as it is
    """
    settings = checked(settings)
    if not settings.model:
        raise UsageError("merging needs an adapter", hint="set `model` to its directory")
    if settings.out.exists():
        raise UsageError(f"`out` {settings.out} exists already", hint="give another directory")
    from thack.models.load import merge

    return merge(settings, progress).fingerprint()


def push(settings: PushSettings, *, progress: Progress = SILENT) -> PushResult:
    """Upload a model with its card to the Hugging Face hub, and on request its cache with a card of its own.

    Args:
        settings: What is pushed, and where; see `PushSettings`. The token is huggingface_hub's own.
        progress: Where progress goes.

    Returns:
        The commits, and what was left out.

    Raises:
        UsageError: No model or repository, or a public repository without `public`.
        ModelError, CacheError: The model or the cache is not complete.
        ServerError: The hub cannot be reached, or refuses.

    Example:
        >>> thack.push(thack.PushSettings(model="runs/teacher", to="org name"))
        Traceback (most recent call last):
        thack.errors.UsageError: to = 'org name' is no repository
          it has the form ORG/NAME
    """
    from thack.checks import check_push

    settings = check_push(checked(settings))
    from thack.reporting.push import push as run

    return run(settings, progress)
