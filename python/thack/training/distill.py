"""Distillation of a teacher into a student: checks, assembly, and then the loop.

Two axes: who wrote the responses (`settings.source`), and where the target distributions come from (a cache
or a live teacher). A cache's responses are fixed, so only offline runs can use one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thack.cache import Cache
from thack.config import DistillSettings, LossSettings, SamplingSettings, TargetSettings
from thack.config.specs import loss_terms, target_spec
from thack.data.encode import prepare
from thack.data.sequence import data_fingerprint
from thack.errors import MismatchError, UsageError
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.monitor import FixedKL
from thack.evaluation.references import References
from thack.evaluation.run import open_eval_set
from thack.models.checkpoint import fingerprint_like
from thack.models.load import load_model, origin_of
from thack.models.precision import FLOAT32, Precision, inference_precision
from thack.models.protocol import LanguageModel
from thack.runtime.device import apply_threads, choose_device, choose_dtype
from thack.runtime.process_group import ProcessGroup, init_process_group
from thack.runtime.progress import SILENT, Progress
from thack.targets.vocabulary import common_width
from thack.training.alignment import check_alignment, check_coverage
from thack.training.checkpoint import Snapshot
from thack.training.clock import Clock
from thack.training.data import CachedTargets, LiveTargets, TrainingData
from thack.training.guard import Guard, Guarded, check_guard
from thack.training.live import LiveTeacher, check_target
from thack.training.loop import Job, Row, train
from thack.training.monitors import training_monitors
from thack.training.objective import Objective, has_plain_head
from thack.training.optimizer import build_optimizer
from thack.training.plan import Plan, evaluation_steps, plan_steps
from thack.training.run_directory import RunDirectory
from thack.training.saver import Saver
from thack.training.setup import begin, check_same_start, finish, own_dtype, width_of
from thack.training.sharding import WrappedModel, as_module, wrap_student, wrap_teacher
from thack.training.source import build_source, response_request


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run: its directory, and the student in it."""

    path: Path
    model: Path
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a run; the student's weights are those of the checkpoint it goes on from."""

    student: LanguageModel
    teacher: LanguageModel | None
    oracle: LanguageModel | None
    judge: LanguageModel | None
    cache: Cache | None
    plain_heads: frozenset[str]  # roles whose logits are their head's product, which a fused loss needs
    width: int  # ids on which student and teacher are compared
    precision: Precision = FLOAT32  # of the teacher, wherever it is not evaluated


def run_distill(settings: DistillSettings, progress: Progress = SILENT, *, name: str = "") -> RunResult:
    """Distill as `settings` say into settings.out; a finished run is returned, a stopped one goes on.

    `name` stands before the progress bar.
    """
    check_combination(settings)
    device = choose_device(settings.device)
    with init_process_group(device) as group:
        progress = progress if group.is_first else SILENT
        run = RunDirectory(settings.out, settings, "distill", group)
        run.claim()
        if run.finished():
            progress.note(f"{run.path} is already there")
            return RunResult(path=run.path, model=run.model, steps=run.last_step())
        apply_threads()
        with run.recorded():
            job, start = prepare_distill(settings, run, device, progress)
            job.name = name or run.path.name
            train(job, start)
            finish(job, group)
    return RunResult(path=run.path, model=run.model, steps=run.last_step())


def check_combination(settings: DistillSettings) -> None:
    """Refuse what cannot work before anything is loaded."""
    kind = settings.source.kind
    if not settings.student:
        raise UsageError("distilling needs a student", hint="set `student` to a model directory")
    if not settings.cache and not settings.teacher:
        raise UsageError("distilling needs a teacher", hint="set `cache`, or `teacher`")
    if settings.cache and kind != "offline":
        raise UsageError(
            f"source.kind = {kind} does not go with a cache",
            details=("responses written afresh have no cached distributions",),
            hint="leave out `cache`, and set `teacher` and `data.path`",
        )
    if settings.cache and settings.target != TargetSettings():
        raise UsageError(
            "target applies only to a live teacher: with a cache, the target was fixed when the cache was written",
            hint="leave out `cache` and set `teacher` and `data.path`, or leave target as it is",
        )
    check_guard(settings)
    check_target(target_spec(settings.target), loss_terms(settings.loss), has_responses=kind == "offline")
    if not settings.cache and not settings.data.path:
        raise UsageError("distilling without a cache needs prompts", hint="set `data.path` to a file of prompts")
    given = settings.teacher or settings.oracle or settings.judge or settings.human_references
    if settings.eval_data and not given:
        raise UsageError(
            "evaluating on an evaluation set needs a reference",
            hint="set `teacher`, `oracle`, `judge` or `human_references`; or leave out `eval_data`",
        )


def prepare_distill(
    settings: DistillSettings, run: RunDirectory, device: torch.device, progress: Progress
) -> tuple[Job, Snapshot]:
    """The job, and the point from which it goes on."""
    group = run.group
    checkpoint = run.resumable(progress)
    with group.raise_on_all_ranks():
        cast = load_models(settings, checkpoint, device)
    eval_set = _open_eval_set(settings, cast, run, progress)
    with group.raise_on_all_ranks():
        evaluator = build_evaluator(settings, cast, eval_set, group)
        facts = _facts(cast, eval_set)
    check_same_start(group, facts)
    dtype, reason = group.broadcast_from_rank0(choose_dtype(settings.dtype, device, width=width_of(cast.student)))
    autocast = own_dtype(cast.student, dtype, settings.memory)
    if cast.teacher is not None:
        found = group.broadcast_from_rank0(inference_precision(cast.teacher, settings.dtype))
        cast = replace(cast, precision=found)
    background = settings.checkpoint.background
    student = wrap_student(cast.student, settings.parallel, group, memory=settings.memory, background=background)
    teacher = None if cast.teacher is None else wrap_teacher(cast.teacher, settings.parallel, group)
    with group.raise_on_all_ranks():
        training_data, lengths = build_training_data(
            settings, cast, teacher, Precision(dtype=autocast), group, progress
        )
        optimizer = build_optimizer(as_module(student.model), settings.optimizer)
        start = begin(student, optimizer, checkpoint)
        plan = _plan(settings, training_data, lengths)
        said = f"{dtype} ({reason})".removeprefix("torch.")
        facts |= {"sequences": len(training_data), "dtype": said, "ranks": group.world_size}
        facts |= {} if cast.teacher is None else {"teacher_dtype": str(cast.precision)}
        if isinstance(training_data, LiveTargets):
            facts["data"] = data_fingerprint(training_data.data)
        run.write_facts(facts, resumed=checkpoint is not None)
        run.open_logs(start.step)
    state = dict(start.trainer.get("state", {}))
    guard = Guard(settings.guard, run, plan.steps_per_epoch, state) if settings.guard.on else None
    if guard is not None:
        training_data = guarded(training_data, cast, teacher, guard, settings)
    objective = _objective(settings, cast, student, autocast)
    steps = evaluation_steps(plan.total_steps, settings.evaluation.count, settings.evaluation.spacing)
    job = Job(
        name=run.path.name,
        student=student,
        teacher=teacher,
        training_data=training_data,
        loss=objective,
        fuses=objective.fuses,
        evaluate=build_evaluation(settings, cast, evaluator, training_data, plan, run, guard),
        evaluation_steps=frozenset(steps),
        plan=plan,
        optimizer=optimizer,
        optimizer_settings=settings.optimizer,
        checkpoint=settings.checkpoint,
        run=run,
        saver=Saver(run.checkpoints, student, optimizer, group, settings.checkpoint),
        state=state,
        spent=start.trainer,
        protected=guard.protected if guard else frozenset,
        asks=guard.asks if guard else (lambda step: False),
        ended=guard.ended if guard else (lambda step: False),
        micro_batch_size=settings.micro_batch_size,
        dtype=autocast,
        group=group,
        clock=Clock(precise=settings.profile),
        profile=settings.profile,
        progress=progress,
    )
    return job, start


def _plan(settings: DistillSettings, training_data: TrainingData, lengths: np.ndarray | None) -> Plan:
    return Plan(
        num_sequences=len(training_data),
        batch_size=settings.batch_size,
        seed=settings.seed,
        total_steps=plan_steps(len(training_data), settings.batch_size, settings.epochs, settings.steps),
        window_steps=settings.source.refresh_steps,
        lengths=lengths,
    )


def load_models(settings: DistillSettings, checkpoint: Path | None, device: torch.device) -> Models:
    """Load every model, and refuse those that do not belong together."""
    student = load_model(checkpoint or settings.student, role="student", device=device)
    names = {"teacher": settings.teacher, "oracle": settings.oracle, "judge": settings.judge}
    teacher, oracle, judge = (
        load_model(name, role=role, device=device, options=settings.load) if name else None
        for role, name in names.items()
    )
    cache = Cache.open(Path(settings.cache)) if settings.cache else None
    widths = {"student": student.vocab_size}
    if teacher is not None:
        check_same_tokenizer("teacher", teacher.tokenizer.fingerprint(), student)
        widths["teacher"] = teacher.vocab_size
    if cache is not None:
        check_same_tokenizer("cache", cache.meta.tokenizer, student)
        check_same_teacher(cache, teacher)
        widths["cache"] = cache.meta.vocab_size
    plain = {"student": student, "teacher": None if cache is not None else teacher}
    return Models(
        student=student,
        teacher=teacher,
        oracle=oracle,
        judge=judge,
        cache=cache,
        plain_heads=_plain_heads(settings.loss, plain),
        width=common_width(student.tokenizer.size, **widths),
    )


def _plain_heads(settings: LossSettings, models: Mapping[str, LanguageModel | None]) -> frozenset[str]:
    if settings.fused is False:
        return frozenset()
    rules = {"student": settings, "teacher": LossSettings()}
    return frozenset(role for role, model in models.items() if model is not None and has_plain_head(model, rules[role]))


def check_same_tokenizer(role: str, fingerprint: str, student: LanguageModel) -> None:
    """Raise MismatchError unless ids mean the same words on both sides (pitfall 20)."""
    own = student.tokenizer.fingerprint()
    if fingerprint != own:
        raise MismatchError(
            f"the {role} was made for another tokenizer than the student's",
            details=(f"{role:<8} {fingerprint}", f"student  {own}"),
            hint=f"ids would mean different words: take a {role} and a student that share a tokenizer",
        )


def check_same_teacher(cache: Cache, teacher: LanguageModel | None) -> None:
    """A live teacher beside a cache serves the proxy metric: it has to be the one that was cached."""
    if teacher is None:
        return
    own = fingerprint_like(cache.meta.teacher, teacher)
    if cache.meta.teacher != own:
        raise MismatchError(
            "the cache holds another teacher's distributions",
            details=(f"cache    {cache.meta.teacher}", f"teacher  {own}"),
            hint="give the teacher that was cached, or cache this one",
        )


def build_training_data(
    settings: DistillSettings,
    cast: Models,
    held: WrappedModel | None,
    student: Precision,
    group: ProcessGroup,
    progress: Progress,
) -> tuple[TrainingData, np.ndarray | None]:
    """What to train on, and its lengths where they are known before the run."""
    if cast.cache is not None:
        skipped = check_alignment(cast.cache)
        if skipped:
            progress.note(skipped)
        _warn_about_reuse(settings, cast.cache, progress)
        if settings.data.path:
            prompts = prepare(settings.data, cast.student.tokenizer, need_response=False).sequences
            check_coverage(cast.cache, prompts)
        return CachedTargets(cast.cache, cast.width), None
    assert cast.teacher is not None and held is not None
    offline = settings.source.kind == "offline"
    precisions = (cast.precision, student)
    source, data = build_source(settings, cast.teacher, cast.student, precisions, group, progress)
    lengths = np.array([len(s.prompt_ids) + len(s.response_ids) for s in data]) if offline else None
    examples = data if offline else []
    projects = "teacher" not in cast.plain_heads
    teacher = LiveTeacher(
        held.model,
        cast.width,
        target_spec(settings.target),
        seed=settings.seed,
        examples=examples,
        projects=projects,
        precision=cast.precision,
    )
    return LiveTargets(source, data, teacher, keeps_responses=not offline), lengths


def _warn_about_reuse(settings: DistillSettings, cache: Cache, progress: Progress) -> None:
    """Sampled targets that are seen again are fixed noise, which the student memorises (pitfall 8)."""
    if cache.meta.kind == "sampled" and settings.epochs > 1 and cache.meta.k < 64:
        progress.note(
            f"warning: {settings.epochs} epochs over {cache.meta.k} sampled ids per token: the student will "
            "memorise their noise; cache top-k, or 64 sampled ids and more"
        )


def guarded(
    training_data: TrainingData, cast: Models, held: WrappedModel | None, guard: Guard, settings: DistillSettings
) -> Guarded:
    """The material that the guard can change."""
    assert cast.teacher is not None and held is not None
    examples = training_data.sequences(np.arange(min(len(training_data), 256)), 0)
    spec = target_spec(settings.target)
    thinned = LiveTeacher(held.model, cast.width, spec, seed=settings.seed, examples=examples, precision=cast.precision)
    return Guarded(training_data, cast.teacher, response_request(settings, cast.precision), thinned, guard)


def build_evaluator(
    settings: DistillSettings, cast: Models, eval_set: EvalSet | None, group: ProcessGroup
) -> Evaluator | None:
    """Golden and proxy on the evaluation set, if there is one."""
    if eval_set is None:
        return None
    return Evaluator(eval_set, references_of(settings, cast), settings.evaluation, seed=settings.seed, group=group)


def references_of(settings: DistillSettings, cast: Models) -> References:
    """What the student is compared with at evaluations."""
    return References(oracle=cast.oracle, teacher=cast.teacher, judge=cast.judge, human=settings.human_references)


def build_evaluation(
    settings: DistillSettings,
    cast: Models,
    evaluator: Evaluator | None,
    training_data: TrainingData,
    plan: Plan,
    run: RunDirectory,
    guard: Guard | None = None,
) -> Callable[[int], Row]:
    """step → all columns: the evaluation set's, and the teacher's distance on fixed training responses."""
    monitors: dict[str, FixedKL] = {}

    def evaluate(step: int) -> Row:
        if cast.teacher is not None and evaluator is not None and not monitors:
            request = replace(response_request(settings, cast.precision), sampling=SamplingSettings())
            monitors.update(training_monitors(cast.teacher, request, cast.width, training_data, plan, run.group))
        columns: Row = {name: monitor.measure(cast.student) for name, monitor in monitors.items()}
        if evaluator is not None:
            found = evaluator.evaluate(cast.student)
            columns |= found.named()
            run.append_per_prompt(found.per_prompt_row(step).dump())
        if guard is not None:
            guard.observe(step, columns)
        return columns

    return evaluate


def _open_eval_set(settings: DistillSettings, cast: Models, run: RunDirectory, progress: Progress) -> EvalSet | None:
    """The held-out prompts; a file of them gets its responses once, and lies in the run from then on."""
    if not settings.eval_data:
        return None

    def opened() -> EvalSet:
        return open_eval_set(
            Path(settings.eval_data),
            run.path,
            references_of(settings, cast),
            data=replace(settings.data, limit=0),
            seed=settings.seed,
            progress=progress,
        )

    with run.group.raise_on_all_ranks():
        eval_set = opened() if run.writes else None
    return opened() if eval_set is None else eval_set  # the other ranks find it made


def _objective(settings: DistillSettings, cast: Models, student: WrappedModel, dtype: torch.dtype) -> Objective:
    kept = cast.cache.meta.kind if cast.cache is not None else settings.target.kind
    return Objective(
        settings=settings.loss,
        model=student.model,
        width=cast.width,
        sparse=kept not in ("dense", "mixed"),
        dtype=dtype,
        plain_head="student" in cast.plain_heads,
    )


def _facts(cast: Models, eval_set: EvalSet | None) -> dict[str, Any]:
    """What went in, by content."""
    models = {"student": cast.student, "teacher": cast.teacher, "oracle": cast.oracle, "judge": cast.judge}
    given = {role: model for role, model in models.items() if model is not None}
    return {
        "models": {role: model.fingerprint() for role, model in given.items()},
        "origins": {role: origin_of(model) for role, model in given.items()},
        "cache": None if cast.cache is None else cast.cache.meta.fingerprint,
        "eval_set": None if eval_set is None else eval_set.fingerprint(),
        "tokenizer": cast.student.tokenizer.fingerprint(),
        "compared_ids": cast.width,
    }
