"""One function for each command: it returns its settings, or refuses them."""

from __future__ import annotations

from pathlib import Path

from thack.cache.format.plan import read_plan
from thack.checks.combinations import check_combination, check_lora, check_target
from thack.checks.frozen_head import check_frozen_head
from thack.checks.inputs import check_caches, check_data, check_eval_data, check_live_target, check_model, check_models
from thack.checks.losses import check_mix_defined
from thack.config import DistillSettings, EvaluateSettings, GenerateSettings, PushSettings, SftSettings
from thack.config.specs import cache_paths, loss_terms, mixes_caches
from thack.errors import UndefinedLoss, UsageError
from thack.files import check_output
from thack.models.upload import check_name
from thack.schema.targets import TargetSpec


def check_sft(settings: SftSettings) -> SftSettings:
    """Settings of `sft` with which it can begin, or be resumed."""
    if not settings.data.path:
        raise UsageError("there is nothing to train on", hint="set `data.path` to a file of prompts with responses")
    check_lora(settings.lora, settings.parallel)
    if settings.lora.rank and not settings.model:
        raise UsageError(
            f"lora.rank = {settings.lora.rank} needs a base model", hint="set `model` to the directory of one"
        )
    check_output(settings.out, "run")
    if not _is_begun(settings.out):
        check_models([settings.model])
        check_data(settings.data)
    return settings


def check_push(settings: PushSettings) -> PushSettings:
    """Settings of `push` with which it can begin."""
    if not settings.model:
        raise UsageError("nothing to push", hint="set `model` to a run, or to the directory of a model")
    if not settings.to:
        raise UsageError("no repository is given", hint="set `to`, such as ORG/NAME")
    check_name(settings.to, "to")
    if settings.cache_to and not settings.cache:
        raise UsageError(
            "cache_to is given, and no cache", hint="set `cache` to its directory, or leave out `cache_to`"
        )
    if settings.cache_to:
        check_name(settings.cache_to, "cache_to")
    check_model(settings.model)
    if settings.cache:
        read_plan(Path(settings.cache).expanduser())
    return settings


def check_generate(settings: GenerateSettings) -> GenerateSettings:
    """Settings of `generate` with which it can begin."""
    if not settings.model:
        raise UsageError("generating needs a model", hint="set `model` to its directory")
    if not settings.data.path:
        raise UsageError("generating needs prompts", hint="set `data.path` to a file of prompts")
    check_output(settings.out, "responses")
    check_models([settings.model], settings.load)
    check_data(settings.data)
    return settings


def check_distill(settings: DistillSettings) -> DistillSettings:
    """Settings of `distill` with which it can begin, or be resumed."""
    check_combination(settings)
    check_output(settings.out, "run")
    if _is_begun(settings.out):
        return settings
    check_models([settings.student])
    check_models([settings.teacher, settings.oracle, settings.judge], settings.load)
    check_live_target(settings)
    if settings.cache:
        spec = check_caches(cache_paths(settings), settings.loss, mixed=mixes_caches(settings))
        check_frozen_head(settings, spec)
    if settings.data.path:
        check_data(settings.data)
    if settings.eval_data:
        check_eval_data(settings.data, settings.eval_data)
    return settings


def check_planned(settings: DistillSettings, target: TargetSpec, name: str) -> None:
    """Refuse a distillation that cannot work whatever its inputs are: these are still to be made.

    Args:
        settings: of the run.
        target: what its cache or live teacher will keep.
        name: of the run.

    Raises:
        UsageError: names the run and the setting.
    """
    try:
        check_combination(settings)
        if settings.cache:
            check_target(target, loss_terms(settings.loss), has_responses=True)
            check_mix_defined(settings.loss, target)
            check_frozen_head(settings, target)
    except (UsageError, UndefinedLoss) as error:
        raise UsageError(f"{name}: {error.message}", details=error.details, hint=error.hint) from error


def check_evaluate(settings: EvaluateSettings) -> EvaluateSettings:
    """Settings of `evaluate` with which it can begin."""
    if not settings.student:
        raise UsageError("nothing to evaluate", hint="set `student` to its directory")
    if settings.evaluation.tasks:
        raise UsageError(
            "evaluation.tasks: evaluate runs no tasks", hint="run lm-eval on the model itself, or distill with them"
        )
    if not settings.eval_data and not settings.data.path:
        raise UsageError(
            "evaluating needs held-out prompts",
            hint="set `eval_data` to a frozen evaluation set, or to a JSONL of prompts",
        )
    if not (settings.teacher or settings.oracle or settings.judge or settings.human_references):
        raise UsageError(
            "evaluating needs a reference", hint="set `teacher`, `oracle`, `judge` or `human_references = true`"
        )
    check_models([settings.student])
    check_models([settings.teacher, settings.oracle, settings.judge], settings.load)
    check_eval_data(settings.data, settings.eval_data or settings.data.path)
    return settings


def _is_begun(run: Path) -> bool:
    """Whether a run has a checkpoint: what it began with was checked then, and may have been moved since."""
    return any((run / "checkpoints").glob("step_*")) or (run / "model").is_dir()
