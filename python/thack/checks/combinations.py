"""Settings of a distillation that cannot work together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from thack.checks.frozen_head import check_frozen_head
from thack.checks.losses import check_alm, check_mix, check_mix_defined, check_policy, check_published
from thack.config import DistillSettings, EvaluationSettings, LoraSettings, ParallelSettings, TargetSettings
from thack.config.specs import cache_paths, loss_terms, mixes_caches, target_spec
from thack.errors import UsageError
from thack.reading import BadJson, parse_json
from thack.schema.cross_tokenizer import check_across_defined
from thack.schema.defined import check_defined
from thack.schema.targets import LossTerm, TargetSpec
from thack.serving.client import check_address


def check_combination(settings: DistillSettings) -> None:
    """Refuse what cannot work before anything is loaded."""
    kind = settings.source.kind
    if not settings.student:
        raise UsageError("distilling needs a student", hint="set `student` to a model directory")
    if not (settings.cache or settings.teacher or settings.server.url):
        raise UsageError("distilling needs a teacher", hint="set `cache`, `teacher` or `server.url`")
    check_server(settings)
    if settings.cache and kind != "offline":
        raise UsageError(
            f"source.kind = {kind} does not go with a cache",
            details=("newly sampled responses have no cached distributions",),
            hint="leave out `cache`, and set `teacher` and `data.path`",
        )
    if settings.cache and settings.target != TargetSettings():
        raise UsageError(
            "target applies only to a live teacher: with a cache, the target was fixed when the cache was written",
            hint="leave out `cache` and set `teacher` and `data.path`, or leave target as it is",
        )
    check_caches_together(settings)
    check_guard(settings)
    check_tasks(settings.evaluation)
    check_baseline(settings)
    check_lora(settings.lora, settings.parallel)
    check_mix(settings.loss)
    check_alm(settings.loss)
    check_policy(settings)
    check_target(target_spec(settings.target), loss_terms(settings.loss), has_responses=kind == "offline")
    if not settings.cache:
        check_frozen_head(settings, target_spec(settings.target))
        check_mix_defined(settings.loss, target_spec(settings.target))
    if not settings.cache and not settings.data.path:
        raise UsageError("distilling without a cache needs prompts", hint="set `data.path` to a file of prompts")
    given = settings.teacher or settings.oracle or settings.judge or settings.human_references
    if settings.eval_data and not given:
        raise UsageError(
            "evaluating on an evaluation set needs a reference",
            hint="set `teacher`, `oracle`, `judge` or `human_references`; or leave out `eval_data`",
        )


def check_caches_together(settings: DistillSettings) -> None:
    """Refuse settings of several caches that contradict each other.

    Raises:
        UsageError: names the settings.
    """
    paths, weights = cache_paths(settings), settings.cache_weights
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"cache = {', '.join(map(str, paths))}: a cache is given twice", hint="give each cache once")
    if len(paths) < 2:
        named = {"cache_weights": weights, "cache_weight_key": settings.cache_weight_key}
        for name, value in named.items():
            if value:
                raise UsageError(f"{name} is given with fewer than two caches", hint="give `cache` several directories")
        return
    if weights and len(weights) != len(paths):
        raise UsageError(f"{len(weights)} cache_weights for {len(paths)} caches", hint="give one weight for each cache")
    if weights and not sum(weights):
        raise UsageError("cache_weights are all 0", hint="give at least one cache a weight above 0")
    if settings.cache_weight_key and not settings.data.path:
        raise UsageError("cache_weight_key names a column of the data", hint="set `data.path` to prompts with weights")
    if mixes_caches(settings) and settings.cache_overlap != "refuse":
        raise UsageError(
            f"cache_overlap = {settings.cache_overlap} does not go with caches that are mixed",
            details=("every prompt is in all of them",),
            hint="leave out `cache_overlap`, or `cache_weights` and `cache_weight_key`",
        )
    if settings.guard.on and settings.guard.policy != "stop":
        raise UsageError(
            f"guard.policy = {settings.guard.policy} does not go with several caches",
            details=("the responses that it adds would have the distributions of one teacher alone",),
            hint="set `guard.policy = stop`, or train from one cache",
        )


def check_across(settings: DistillSettings) -> None:
    """Refuse what is not defined for a student with another tokenizer than the teacher's.

    Raises:
        UsageError, UndefinedLoss: names the setting.
    """
    hint = "leave it out, or use a student with the teacher's tokenizer"
    check_published(settings.loss)
    for term in loss_terms(settings.loss):
        if term.divergence is not None:
            check_across_defined(settings.loss.cross_tokenizer, term.divergence)
        if term.policy is not None:
            raise UsageError(
                "loss.policy: the student's tokens are not the teacher's, whose tokenizer differs", hint=hint
            )
    if settings.loss.mix in ("confidence", "entropy"):
        raise UsageError(
            f"loss.mix = {settings.loss.mix}: the student's positions are not the teacher's, whose tokenizer differs",
            hint=hint,
        )
    source = settings.source
    if source.kind == "online-student" or (source.kind == "mixture" and source.online_by == "student"):
        raise UsageError(
            f"source.kind = {source.kind}: the student's tokenizer is not the teacher's, and on text that the student "
            "wrote nothing stands for the teacher inside a cell",
            hint="use `source.kind = online-teacher`, or `offline` with responses that the teacher wrote",
        )
    if len(cache_paths(settings)) > 1:
        raise UsageError("cache: several caches, and the student has another tokenizer", hint="train from one cache")
    if settings.server.url:
        raise UsageError("server.url: a server scores ids of the student's tokenizer", hint=hint)
    if settings.data.train_on != "last":
        raise UsageError(
            f"data.train_on = {settings.data.train_on}: prompts of several turns are not rewritten between tokenizers",
            hint="use `data.train_on = last`",
        )


def check_tasks(settings: EvaluationSettings) -> None:
    """Refuse benchmarks whose harness or files are not there."""
    if not settings.tasks and settings != replace(settings, tasks_path="", tasks_at="end", tasks_limit=0):
        raise UsageError(
            "evaluation.tasks_path, tasks_at or tasks_limit is set, and no task",
            hint='set `evaluation.tasks`, such as ["hellaswag"]',
        )
    if settings.tasks and find_spec("lm_eval") is None:
        raise UsageError(
            "evaluation.tasks needs lm-evaluation-harness, and it is not installed", hint="pip install 'thack[eval]'"
        )
    if settings.tasks_path and not Path(settings.tasks_path).expanduser().is_dir():
        raise UsageError(
            f"evaluation.tasks_path = {settings.tasks_path} is no directory", hint="give that of your YAML files"
        )


def check_guard(settings: DistillSettings) -> None:
    """Refuse a guard that has nothing to watch, or nothing to act with."""
    if not settings.guard.on:
        return
    if settings.source.kind != "offline":
        raise UsageError(
            f"a guard watches offline runs; source.kind is {settings.source.kind}",
            details=["responses that are newly sampled in every epoch are not memorised"],
            hint="leave out `guard.on`, or `source.kind`",
        )
    if not settings.teacher or not settings.eval_data:
        raise UsageError(
            "a guard compares training with held-out prompts, and needs a live teacher for both",
            hint="set `teacher` and `eval_data`",
        )


def check_baseline(settings: DistillSettings) -> None:
    """Refuse a plain fine-tuning that has nothing to train on, or nothing to be compared by."""
    if settings.baseline == "none":
        return
    if settings.source.kind != "offline":
        raise UsageError(
            f"baseline = sft needs given responses; source.kind is {settings.source.kind}",
            details=("fine-tuning on responses that a model samples during the run is no plain fine-tuning",),
            hint="use `source.kind = offline`, or leave out `baseline`",
        )
    if not settings.eval_data:
        raise UsageError(
            "baseline = sft is compared on held-out prompts, and there are none",
            hint="set `eval_data`, or leave out `baseline`",
        )
    if settings.guard.on:
        raise UsageError(
            "baseline = sft does not go with guard.on",
            details=("the guard changes what is trained on, or for how long: the two runs would not be alike",),
            hint="leave out `guard.on`, or `baseline`",
        )
    if all(term.divergence is None and term.policy is None for term in loss_terms(settings.loss)):
        raise UsageError(
            "baseline = sft: the loss is the cross-entropy alone, so that both runs would be the same",
            hint="give `loss.weight` a value above 0, or leave out `baseline`",
        )


def check_lora(lora: LoraSettings, parallel: ParallelSettings) -> None:
    """Refuse settings of an adapter that there is none of, and shards of a quantised model below one."""
    if not lora.rank and lora != LoraSettings():
        raise UsageError(
            "`lora` is set, and lora.rank = 0 trains all weights", hint="set `lora.rank`, such as lora.rank = 16"
        )
    if lora.quantization:
        try:
            is_object = isinstance(parse_json(lora.quantization), dict)
        except BadJson:
            is_object = False
        if not is_object:
            raise UsageError(
                "lora.quantization is not a JSON object",
                hint='for example {"quant_method": "bitsandbytes", "load_in_4bit": true}',
            )
    if lora.quantization and parallel.strategy == "fsdp":
        raise UsageError(
            "parallel.strategy = fsdp does not go with lora.quantization",
            details=("packed weights of 4 or 8 bits are not split into shards",),
            hint="use `parallel.strategy = ddp`: gradients and optimizer state are of the adapter alone",
        )


def check_server(settings: DistillSettings) -> None:
    """Refuse what a server cannot give to a run, before anything is loaded.

    Raises:
        UsageError: names the settings.
    """
    if not settings.server.url:
        return
    other = "cache" if settings.cache else "teacher" if settings.teacher else ""
    if other:
        raise UsageError(f"`{other}` and `server.url` are both given", hint="take targets from one of them")
    check_address(settings.server.url)
    if settings.source.kind != "offline":
        raise UsageError(
            f"source.kind = {settings.source.kind} does not go with a server",
            details=("newly sampled responses would be paid for in every step, and are in no cache",),
            hint="use `source.kind = offline`, or a live `teacher`",
        )
    if settings.target.kind != "top-k":
        raise UsageError(
            f"target.kind = {settings.target.kind}: a server gives the most likely ids, and the mass of the others",
            hint="use `target.kind = top-k`, and `target.k = 20` or what the server allows",
        )


def check_target(spec: TargetSpec, terms: Sequence[LossTerm], *, has_responses: bool) -> None:
    """Refuse a loss that is not defined on a live teacher's target, before anything is loaded.

    Args:
        spec: what is kept of the live teacher.
        terms: of the loss.
        has_responses: whether the responses are given, so that a prior can be computed over them.

    Raises:
        UndefinedLoss: a divergence, or its temperature, is not defined on this kind of target.
        UsageError: the prior needs responses.
    """
    for term in terms:
        if term.divergence is not None:
            check_defined(spec, term.divergence)
    if spec.tail_prior and not has_responses:
        raise UsageError(
            "target.tail_prior needs given responses: the prior is the mean tail over them",
            hint="use `source.kind = offline`, or `target.tail_prior = 0` with `target.tail_draws = 4`",
        )
