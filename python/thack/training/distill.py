"""Distillation of a teacher into a student: checks, assembly, and then the loop.

Two axes: who wrote the responses (`settings.source`), and where the target distributions come from (a cache
or a live teacher). A cache's responses are fixed, so only offline runs can use one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thack.cache import Cache
from thack.config.settings import DistillSettings, LossSettings, TargetSettings
from thack.errors import MismatchError, UsageError
from thack.losses.vocabulary import common_width
from thack.metrics.bank import PromptBank
from thack.metrics.distance import Evaluator
from thack.metrics.monitor import FixedKL
from thack.metrics.run import open_bank
from thack.models.load import load_model, origin_of
from thack.models.protocol import LanguageModel
from thack.runtime.device import apply_threads, choose_device, choose_dtype
from thack.runtime.progress import SILENT, Progress
from thack.training.canary import check_alignment
from thack.training.checkpoint import Snapshot, as_module, read_snapshot, restore_optimizer
from thack.training.clock import Clock
from thack.training.guard import Guard, Guarded, check_guard
from thack.training.loop import Job, Row, train
from thack.training.material import Cached, Live, Material
from thack.training.monitors import training_monitors
from thack.training.objective import Objective, has_plain_head
from thack.training.optimizer import build_optimizer
from thack.training.plan import Plan, evaluation_steps, plan_steps
from thack.training.rundir import RunDirectory
from thack.training.setup import finish, last_step, recorded, width_of
from thack.training.source import build_source
from thack.training.team import Team
from thack.training.thinned import Thinned, check_target


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run: its directory, and the student in it."""

    path: Path
    model: Path
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The models of a run; the student's weights are those of the checkpoint it goes on from."""

    student: LanguageModel
    teacher: LanguageModel | None
    oracle: LanguageModel | None
    judge: LanguageModel | None
    cache: Cache | None
    width: int  # ids on which student and teacher are compared


def run_distill(settings: DistillSettings, progress: Progress = SILENT, *, name: str = "") -> RunResult:
    """Distill as `settings` say into settings.out; a finished run is returned, a stopped one goes on.

    `name` stands before the progress bar.
    """
    check_combination(settings)
    run = RunDirectory(settings.out, settings, "distill")
    run.claim()
    if run.finished():
        progress.note(f"{run.path} is already there")
        return RunResult(path=run.path, model=run.model, steps=int(run.status()["step"]))
    apply_threads()
    with recorded(run):
        job, start = prepare_distill(settings, run, progress)
        job.name = name or run.path.name
        train(job, start)
        finish(job, job.team)
    return RunResult(path=run.path, model=run.model, steps=last_step(run))


def check_combination(settings: DistillSettings) -> None:
    """Refuse what cannot work before anything is loaded."""
    kind = settings.source.kind
    if not settings.student:
        raise UsageError("distilling needs a student", hint="give --student DIR")
    if not settings.cache and not settings.teacher:
        raise UsageError("distilling needs a teacher", hint="give --cache DIR, or --teacher DIR")
    if settings.cache and kind != "offline":
        raise UsageError(
            f"source.kind = {kind} does not go with a cache",
            details=("responses written afresh have no cached distributions",),
            hint="leave --cache out and give --teacher and --data",
        )
    if settings.cache and settings.target != TargetSettings():
        raise UsageError(
            "target says what is kept of a live teacher, and a cache has kept what it has",
            hint="leave --cache out and give --teacher and --data, or leave target as it is",
        )
    check_guard(settings)
    check_target(settings.target, settings.loss, has_responses=kind == "offline")
    if not settings.cache and not settings.data.path:
        raise UsageError("distilling without a cache needs prompts", hint="give --data prompts.jsonl")
    given = settings.teacher or settings.oracle or settings.judge or settings.human_references
    if settings.bank and not given:
        raise UsageError(
            "evaluating on a bank needs a reference",
            hint="give --teacher or --oracle, or no --bank (see also judge and human_references)",
        )


def prepare_distill(settings: DistillSettings, run: RunDirectory, progress: Progress) -> tuple[Job, Snapshot]:
    """The job, and the point from which it goes on."""
    device = choose_device(settings.device)
    checkpoint = run.resumable(progress)
    cast = load_cast(settings, checkpoint, device)
    material, lengths = build_material(settings, cast, progress)
    plan = Plan(
        num_sequences=len(material),
        batch_size=settings.batch_size,
        seed=settings.seed,
        total_steps=plan_steps(len(material), settings.batch_size, settings.epochs, settings.steps),
        window_steps=settings.source.refresh_steps,
        lengths=lengths,
    )
    optimizer = build_optimizer(as_module(cast.student), settings.optimizer)
    start = Snapshot(step=0, trainer={})
    if checkpoint:
        start = read_snapshot(checkpoint)
        restore_optimizer(as_module(cast.student), optimizer, checkpoint)
    state = dict(start.trainer.get("state", {}))
    guard = Guard(settings.guard, run, plan.steps_per_epoch, state) if settings.guard.on else None
    if guard is not None:
        material = guarded(material, cast, guard, settings)
    dtype, reason = choose_dtype(settings.dtype, device, width=width_of(cast.student))
    bank = _bank(settings, cast, run, progress)
    run.open_logs(start.step)
    run.write_facts(_facts(cast, bank, len(material), f"{dtype} ({reason})".removeprefix("torch.")))
    steps = evaluation_steps(plan.total_steps, settings.evaluation.count, settings.evaluation.spacing)
    objective = _objective(settings, cast, dtype)
    job = Job(
        name=run.path.name,
        model=cast.student,
        material=material,
        loss=objective,
        fuses=objective.fuses,
        evaluate=build_evaluation(settings, cast, bank, material, plan, run, guard),
        evaluation_steps=frozenset(steps),
        plan=plan,
        optimizer=optimizer,
        optimizer_settings=settings.optimizer,
        checkpoint=settings.checkpoint,
        run=run,
        state=state,
        spent=start.trainer,
        protected=guard.protected if guard else frozenset,
        ended=guard.ended if guard else (lambda step: False),
        micro_batch_size=settings.micro_batch_size,
        dtype=dtype,
        team=Team(),
        clock=Clock(precise=settings.profile),
        profile=settings.profile,
        progress=progress,
    )
    return job, start


def load_cast(settings: DistillSettings, checkpoint: Path | None, device: torch.device) -> Cast:
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
    width = common_width(student.tokenizer.size, **widths)
    return Cast(student=student, teacher=teacher, oracle=oracle, judge=judge, cache=cache, width=width)


def check_same_tokenizer(role: str, fingerprint: str, student: LanguageModel) -> None:
    """Raise MismatchError unless ids mean the same words on both sides (trap 20)."""
    own = student.tokenizer.fingerprint()
    if fingerprint != own:
        raise MismatchError(
            f"the {role} was made for another tokenizer than the student's",
            details=(f"{role:<8} {fingerprint}", f"student  {own}"),
            hint=f"ids would mean different words: take a {role} and a student that share a tokenizer",
        )


def check_same_teacher(cache: Cache, teacher: LanguageModel | None) -> None:
    """A live teacher beside a cache serves the proxy metric: it has to be the one that was cached."""
    if teacher is not None and cache.meta.teacher != teacher.fingerprint():
        raise MismatchError(
            "the cache holds another teacher's distributions",
            details=(f"cache    {cache.meta.teacher}", f"teacher  {teacher.fingerprint()}"),
            hint="give the teacher that was cached, or cache this one",
        )


def build_material(settings: DistillSettings, cast: Cast, progress: Progress) -> tuple[Material, np.ndarray | None]:
    """What to train on, and its lengths where they are known before the run."""
    if cast.cache is not None:
        skipped = check_alignment(cast.cache)
        if skipped:
            progress.note(skipped)
        _warn_about_reuse(settings, cast.cache, progress)
        return Cached(cast.cache, cast.width), None
    assert cast.teacher is not None
    offline = settings.source.kind == "offline"
    source, data = build_source(settings, cast.teacher, cast.student, progress)
    lengths = np.array([len(s.prompt_ids) + len(s.response_ids) for s in data]) if offline else None
    examples = data if offline else []
    projects = settings.loss.fused is False or not has_plain_head(cast.teacher, LossSettings())
    teacher = Thinned(
        cast.teacher, cast.width, settings.target, seed=settings.seed, examples=examples, projects=projects
    )
    return Live(source, data, teacher, keeps_responses=not offline), lengths


def _warn_about_reuse(settings: DistillSettings, cache: Cache, progress: Progress) -> None:
    """Sampled targets that are seen again are fixed noise, which the student memorises (RECIPE, trap 8)."""
    if cache.meta.kind == "sampled" and settings.epochs > 1 and cache.meta.k < 64:
        progress.note(
            f"warning: {settings.epochs} epochs over {cache.meta.k} sampled ids per token: the student will "
            "memorise their noise; cache top-k, or 64 sampled ids and more"
        )


def guarded(material: Material, cast: Cast, guard: Guard, settings: DistillSettings) -> Guarded:
    """The material that the guard can change."""
    assert cast.teacher is not None
    examples = material.sequences(np.arange(min(len(material), 256)), 0)
    thinned = Thinned(cast.teacher, cast.width, settings.target, seed=settings.seed, examples=examples)
    return Guarded(material, cast.teacher, thinned, guard, settings)


def build_evaluation(
    settings: DistillSettings,
    cast: Cast,
    bank: PromptBank | None,
    material: Material,
    plan: Plan,
    run: RunDirectory,
    guard: Guard | None = None,
) -> Callable[[int], Row]:
    """step → all columns: the bank's, and the teacher's distance on fixed training responses."""
    evaluator = None
    if bank is not None:
        evaluator = Evaluator(
            bank, cast.teacher, cast.oracle, settings.evaluation, seed=settings.seed, judge=cast.judge
        )
    monitors: dict[str, FixedKL] = {}

    def evaluate(step: int) -> Row:
        if cast.teacher is not None and evaluator is not None and not monitors:
            monitors.update(training_monitors(settings, cast.teacher, cast.width, material, plan))
        columns: Row = {name: monitor.measure(cast.student) for name, monitor in monitors.items()}
        if evaluator is not None:
            found = evaluator.evaluate(cast.student)
            columns |= found.columns
            run.append_per_prompt(found.per_prompt_row(step))
        if guard is not None:
            guard.observe(step, columns)
        return columns

    return evaluate


def _bank(settings: DistillSettings, cast: Cast, run: RunDirectory, progress: Progress) -> PromptBank | None:
    """The held-out prompts; a file of them gets its responses once, and lies in the run from then on."""
    if not settings.bank:
        return None
    return open_bank(
        Path(settings.bank),
        run.path,
        teacher=cast.teacher,
        oracle=cast.oracle,
        judge=cast.judge,
        human=settings.human_references,
        data=replace(settings.data, limit=0),
        seed=settings.seed,
        progress=progress,
    )


def _objective(settings: DistillSettings, cast: Cast, dtype: torch.dtype) -> Objective:
    kept = cast.cache.meta.kind if cast.cache is not None else settings.target.kind
    return Objective(
        settings=settings.loss,
        model=cast.student,
        width=cast.width,
        sparse=kept not in ("dense", "mixed"),
        dtype=dtype,
        plain_head=settings.loss.fused is not False and has_plain_head(cast.student, settings.loss),
    )


def _facts(cast: Cast, bank: PromptBank | None, num_sequences: int, dtype: str) -> dict[str, Any]:
    """What went in, by content."""
    models = {"student": cast.student, "teacher": cast.teacher, "oracle": cast.oracle, "judge": cast.judge}
    given = {role: model for role, model in models.items() if model is not None}
    return {
        "models": {role: model.fingerprint() for role, model in given.items()},
        "origins": {role: origin_of(model) for role, model in given.items()},
        "cache": None if cast.cache is None else cast.cache.meta.fingerprint,
        "bank": None if bank is None else bank.fingerprint(),
        "tokenizer": cast.student.tokenizer.fingerprint(),
        "compared_ids": cast.width,
        "sequences": num_sequences,
        "dtype": dtype,
    }
