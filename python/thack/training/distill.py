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
from thack.config.settings import DistillSettings, LossSettings, TargetSettings
from thack.errors import MismatchError, UsageError
from thack.losses.vocabulary import common_width
from thack.metrics.bank import PromptBank
from thack.metrics.distance import Evaluator
from thack.metrics.monitor import FixedKL
from thack.metrics.run import open_bank
from thack.models.checkpoint import fingerprint_like
from thack.models.load import load_model, origin_of
from thack.models.protocol import LanguageModel
from thack.responses.data import prepare
from thack.runtime.device import apply_threads, choose_device, choose_dtype
from thack.runtime.progress import SILENT, Progress
from thack.runtime.team import Team, join
from thack.targets import data_fingerprint
from thack.training.canary import check_alignment, check_coverage
from thack.training.checkpoint import Snapshot
from thack.training.clock import Clock
from thack.training.guard import Guard, Guarded, check_guard
from thack.training.loop import Job, Row, train
from thack.training.material import Cached, Live, Material
from thack.training.monitors import training_monitors
from thack.training.objective import Objective, has_plain_head
from thack.training.optimizer import build_optimizer
from thack.training.parallel import Held, as_module, hold_student, hold_teacher
from thack.training.plan import Plan, evaluation_steps, plan_steps
from thack.training.rundir import RunDirectory
from thack.training.saver import Saver
from thack.training.setup import begin, check_same_start, finish, last_step, own_dtype, recorded, width_of
from thack.training.source import build_source
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
    plain_heads: frozenset[str]  # roles whose logits are their head's product, which a fused loss needs
    width: int  # ids on which student and teacher are compared


def run_distill(settings: DistillSettings, progress: Progress = SILENT, *, name: str = "") -> RunResult:
    """Distill as `settings` say into settings.out; a finished run is returned, a stopped one goes on.

    `name` stands before the progress bar.
    """
    check_combination(settings)
    device = choose_device(settings.device)
    with join(device) as team:
        progress = progress if team.is_first else SILENT
        run = RunDirectory(settings.out, settings, "distill", team)
        run.claim()
        if run.finished():
            progress.note(f"{run.path} is already there")
            return RunResult(path=run.path, model=run.model, steps=int(run.status()["step"]))
        apply_threads()
        with recorded(run):
            job, start = prepare_distill(settings, run, device, progress)
            job.name = name or run.path.name
            train(job, start)
            finish(job, team)
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


def prepare_distill(
    settings: DistillSettings, run: RunDirectory, device: torch.device, progress: Progress
) -> tuple[Job, Snapshot]:
    """The job, and the point from which it goes on."""
    team = run.team
    checkpoint = run.resumable(progress)
    with team.together():
        cast = load_cast(settings, checkpoint, device)
    bank = _bank(settings, cast, run, progress)
    with team.together():
        evaluator = build_evaluator(settings, cast, bank, team)
        facts = _facts(cast, bank)
    check_same_start(team, facts)
    dtype, reason = team.first(choose_dtype(settings.dtype, device, width=width_of(cast.student)))
    autocast = own_dtype(cast.student, dtype, settings.memory)
    background = settings.checkpoint.background
    student = hold_student(cast.student, settings.parallel, team, memory=settings.memory, background=background)
    teacher = None if cast.teacher is None else hold_teacher(cast.teacher, settings.parallel, team)
    with team.together():
        material, lengths = build_material(settings, cast, teacher, team, progress)
        optimizer = build_optimizer(as_module(student.model), settings.optimizer)
        start = begin(student, optimizer, checkpoint)
        plan = _plan(settings, material, lengths)
        said = f"{dtype} ({reason})".removeprefix("torch.")
        facts |= {"sequences": len(material), "dtype": said, "ranks": team.world_size}
        if isinstance(material, Live):
            facts["data"] = data_fingerprint(material.data)
        run.write_facts(facts, resumed=checkpoint is not None)
        run.open_logs(start.step)
    state = dict(start.trainer.get("state", {}))
    guard = Guard(settings.guard, run, plan.steps_per_epoch, state) if settings.guard.on else None
    if guard is not None:
        material = guarded(material, cast, teacher, guard, settings)
    objective = _objective(settings, cast, student, autocast)
    steps = evaluation_steps(plan.total_steps, settings.evaluation.count, settings.evaluation.spacing)
    job = Job(
        name=run.path.name,
        student=student,
        teacher=teacher,
        material=material,
        loss=objective,
        fuses=objective.fuses,
        evaluate=build_evaluation(settings, cast, evaluator, material, plan, run, guard),
        evaluation_steps=frozenset(steps),
        plan=plan,
        optimizer=optimizer,
        optimizer_settings=settings.optimizer,
        checkpoint=settings.checkpoint,
        run=run,
        saver=Saver(run.checkpoints, student, optimizer, team, settings.checkpoint),
        state=state,
        spent=start.trainer,
        protected=guard.protected if guard else frozenset,
        asks=guard.asks if guard else (lambda step: False),
        ended=guard.ended if guard else (lambda step: False),
        micro_batch_size=settings.micro_batch_size,
        dtype=autocast,
        team=team,
        clock=Clock(precise=settings.profile),
        profile=settings.profile,
        progress=progress,
    )
    return job, start


def _plan(settings: DistillSettings, material: Material, lengths: np.ndarray | None) -> Plan:
    return Plan(
        num_sequences=len(material),
        batch_size=settings.batch_size,
        seed=settings.seed,
        total_steps=plan_steps(len(material), settings.batch_size, settings.epochs, settings.steps),
        window_steps=settings.source.refresh_steps,
        lengths=lengths,
    )


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
    plain = {"student": student, "teacher": None if cache is not None else teacher}
    return Cast(
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
    if teacher is None:
        return
    own = fingerprint_like(cache.meta.teacher, teacher)
    if cache.meta.teacher != own:
        raise MismatchError(
            "the cache holds another teacher's distributions",
            details=(f"cache    {cache.meta.teacher}", f"teacher  {own}"),
            hint="give the teacher that was cached, or cache this one",
        )


def build_material(
    settings: DistillSettings, cast: Cast, held: Held | None, team: Team, progress: Progress
) -> tuple[Material, np.ndarray | None]:
    """What to train on, and its lengths where they are known before the run."""
    if cast.cache is not None:
        skipped = check_alignment(cast.cache)
        if skipped:
            progress.note(skipped)
        _warn_about_reuse(settings, cast.cache, progress)
        if settings.data.path:
            prompts = prepare(settings.data, cast.student.tokenizer, need_response=False).sequences
            check_coverage(cast.cache, prompts)
        return Cached(cast.cache, cast.width), None
    assert cast.teacher is not None and held is not None
    offline = settings.source.kind == "offline"
    source, data = build_source(settings, cast.teacher, cast.student, team, progress)
    lengths = np.array([len(s.prompt_ids) + len(s.response_ids) for s in data]) if offline else None
    examples = data if offline else []
    projects = "teacher" not in cast.plain_heads
    teacher = Thinned(held.model, cast.width, settings.target, seed=settings.seed, examples=examples, projects=projects)
    return Live(source, data, teacher, keeps_responses=not offline), lengths


def _warn_about_reuse(settings: DistillSettings, cache: Cache, progress: Progress) -> None:
    """Sampled targets that are seen again are fixed noise, which the student memorises (RECIPE, trap 8)."""
    if cache.meta.kind == "sampled" and settings.epochs > 1 and cache.meta.k < 64:
        progress.note(
            f"warning: {settings.epochs} epochs over {cache.meta.k} sampled ids per token: the student will "
            "memorise their noise; cache top-k, or 64 sampled ids and more"
        )


def guarded(material: Material, cast: Cast, held: Held | None, guard: Guard, settings: DistillSettings) -> Guarded:
    """The material that the guard can change."""
    assert cast.teacher is not None and held is not None
    examples = material.sequences(np.arange(min(len(material), 256)), 0)
    thinned = Thinned(held.model, cast.width, settings.target, seed=settings.seed, examples=examples)
    return Guarded(material, cast.teacher, thinned, guard, settings)


def build_evaluator(settings: DistillSettings, cast: Cast, bank: PromptBank | None, team: Team) -> Evaluator | None:
    """Golden and proxy on the bank, if there is one."""
    if bank is None:
        return None
    return Evaluator(
        bank, cast.teacher, cast.oracle, settings.evaluation, seed=settings.seed, judge=cast.judge, team=team
    )


def build_evaluation(
    settings: DistillSettings,
    cast: Cast,
    evaluator: Evaluator | None,
    material: Material,
    plan: Plan,
    run: RunDirectory,
    guard: Guard | None = None,
) -> Callable[[int], Row]:
    """step → all columns: the bank's, and the teacher's distance on fixed training responses."""
    monitors: dict[str, FixedKL] = {}

    def evaluate(step: int) -> Row:
        if cast.teacher is not None and evaluator is not None and not monitors:
            monitors.update(training_monitors(settings, cast.teacher, cast.width, material, plan, run.team))
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

    def opened() -> PromptBank:
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

    with run.team.together():
        bank = opened() if run.writes else None
    return opened() if bank is None else bank  # the other ranks find it made


def _objective(settings: DistillSettings, cast: Cast, student: Held, dtype: torch.dtype) -> Objective:
    kept = cast.cache.meta.kind if cast.cache is not None else settings.target.kind
    return Objective(
        settings=settings.loss,
        model=student.model,
        width=cast.width,
        sparse=kept not in ("dense", "mixed"),
        dtype=dtype,
        plain_head="student" in cast.plain_heads,
    )


def _facts(cast: Cast, bank: PromptBank | None) -> dict[str, Any]:
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
    }
