"""Distillation of a teacher into a student: checks, assembly, training.

Two independent questions: who wrote the responses (`settings.source`), and where the target distributions come from (a
cache or a live teacher). The responses of a cache are fixed, so only offline runs can use one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from thack.checks import check_combination
from thack.config import DistillSettings, SamplingSettings
from thack.config.specs import policy_gradient, target_spec
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.monitor import FixedKL, TrainingDistance
from thack.models.precision import Precision
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.schema.preflight import Preflight
from thack.schema.run import RunFacts
from thack.training.across import Across, RewrittenData
from thack.training.assembly import open_evaluator, plan_of, steps_of_evaluations, with_eval_set, wrap_models
from thack.training.baseline import train_supervised
from thack.training.behaviour import Writer
from thack.training.benchmarks import Benchmarks
from thack.training.build_data import build_data, guarded, monitored, response_request
from thack.training.checkpoint import Snapshot
from thack.training.clock import Clock
from thack.training.data import CachedTargets, LiveTargets, TrainingData
from thack.training.guard import Guard
from thack.training.hooks import BestProxy, Evaluation, Hook
from thack.training.models import Models, load_models
from thack.training.monitors import TrainingMonitors, recorded
from thack.training.objective import Objective
from thack.training.optimizer import Optimizer
from thack.training.order import order_of
from thack.training.plan import Plan
from thack.training.preflight import CELLS, COUNTED, examine_run
from thack.training.run_directory import RunDirectory
from thack.training.served import ServedTargets
from thack.training.setup import balance, check_same_start, run_training, starting_point, training_precision
from thack.training.sharding import WrappedModels, as_module
from thack.training.trainer import Trainer
from thack.training.writers import check_start_wrote

Data = CachedTargets | LiveTargets | ServedTargets | RewrittenData

_CHECKED = 256  # sequences that are looked at as a run starts


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run.

    Attributes:
        path: The run's directory.
        model: The student in it.
        steps: Optimizer steps.
        best: The student at its lowest proxy; None without held-out prompts and a teacher.
        supervised: The run of plain fine-tuning beside it, with `baseline = sft`.
    """

    path: Path
    model: Path
    steps: int
    best: Path | None = None
    supervised: Path | None = None


def run_distill(settings: DistillSettings, progress: Progress = SILENT, *, name: str = "") -> RunResult:
    """Train a student to match a teacher, from a cache or live.

    Args:
        settings: What to train on what. A finished run in `settings.out` is returned, a stopped one resumed.
        progress: Where to show progress.
        name: Stands before the progress bar; empty: the name of the directory.

    Returns:
        The run, complete.

    Raises:
        UsageError: settings that do not go together, or with which the directory cannot be resumed.
        MismatchError: models, cache or data that do not belong together.
        DivergedError: the loss is no longer finite.
        Preempted, Interrupted: stopped by a signal; call it again to resume.
    """
    check_combination(settings)
    beside = partial(train_supervised, settings) if settings.baseline == "sft" else None
    run = run_training(settings, "distill", partial(prepare_distill, settings), progress, name, beside=beside)
    best = run.best if run.best.is_dir() else None
    supervised = run.supervised if beside is not None else None
    return RunResult(path=run.path, model=run.model, steps=run.last_step(), best=best, supervised=supervised)


def prepare_distill(
    settings: DistillSettings, run: RunDirectory, device: torch.device, progress: Progress
) -> tuple[Trainer, Snapshot]:
    """The trainer, and the point to start from. Every rank calls it; parts that do not communicate fail together."""
    group, checkpoint = run.group, run.resumable(progress)
    earlier = run.earlier_facts(resumed=checkpoint is not None)
    models = load_models(settings, checkpoint, device, group, progress)
    evaluator = open_evaluator(settings, models, group, progress)
    with group.raise_on_all_ranks():
        facts = replace(with_eval_set(models.facts(), evaluator), target=_target(settings, models))
        if settings.loss.policy.weight and settings.source.kind == "offline" and checkpoint is None:
            for line in check_start_wrote(settings, models):
                progress.note(line)
    check_same_start(group, facts)
    precision = training_precision(models.student, settings.dtype, settings.memory, group)
    wrapped = wrap_models(settings, models, run)
    balance(wrapped.student.model, settings.router_loss, progress)
    across = Across.of(settings, models, run, progress)
    accepts = None if across is None else across.rewriter.accepts
    with group.raise_on_all_ranks():
        given = build_data(settings, models, wrapped.teacher, precision, group, progress, accepts=accepts)
        data = _data(settings, models, across, given)
        plan = plan_of(settings, data, order_of(len(data), earlier))
        optimizer = Optimizer(as_module(wrapped.student.model), settings.optimizer)
        start = starting_point(wrapped.student, optimizer.adamw, checkpoint)
        precisions = models.precisions(precision, evaluates=evaluator is not None)
        progress.note("precision: " + " · ".join(f"{role} {text}" for role, text in precisions.items()))
    checks = _preflight(settings, models, wrapped, data, progress)
    with group.raise_on_all_ranks():
        facts = _with_data(facts, data, precisions, group.world_size)
        facts = replace(facts, preflight=checks.numbers(), order=plan.order)
        run.write_facts(facts, resumed=checkpoint is not None)
        run.open_logs(start.step)
    hooks, training_data = _hooks(settings, models, wrapped, data, across, plan, run, evaluator, progress)
    trainer = Trainer(
        models=wrapped,
        data=training_data,
        objective=_objective(settings, models, wrapped, precision),
        optimizer=optimizer,
        plan=plan,
        run=run,
        checkpoint=settings.checkpoint,
        hooks=hooks,
        writer=_writer(settings, models, precision),
        clock=Clock(settings.profile),
        progress=progress,
    )
    return trainer, start


def _data(
    settings: DistillSettings,
    models: Models,
    across: Across | None,
    given: CachedTargets | LiveTargets | ServedTargets,
) -> Data:
    """`given` as the student reads it."""
    if across is None:
        return given
    assert not isinstance(given, ServedTargets), "a server scores the student's ids"
    return across.data(given, settings, models)


def _preflight(
    settings: DistillSettings,
    models: Models,
    wrapped: WrappedModels,
    data: Data,
    progress: Progress,
) -> Preflight:
    """Checks of meaning; what they find is a note. All ranks score the same rows, since a teacher may be sharded."""
    count, cells = min(_CHECKED, len(data)), None
    sequences: Sequence[TokenSequence]
    if isinstance(data, RewrittenData):
        sequences, cells = data.measure()
    else:
        sequences = data.data[:count] if not isinstance(data, CachedTargets) else data.sequences(np.arange(count), 0)
    scores = wrapped.teacher is not None and models.training_teacher is not None
    with progress.task("checking models and data", None):
        found = examine_run(
            settings, models, wrapped.teacher.model if scores and wrapped.teacher else None, sequences, cells
        )
    for finding in found.findings:
        if cells is not None and finding.state == "ok" and finding.name in CELLS:
            progress.note(f"{finding.name}: {finding.value}")
        if finding.state != "ok" and finding.name not in COUNTED:
            advice = f" ({finding.advice})" if finding.advice else ""
            progress.note(f"warning: {finding.name}: {finding.value}{advice}")
    return found


def _with_data(facts: RunFacts, data: TrainingData, precision: dict[str, str], ranks: int) -> RunFacts:
    given = data.given if isinstance(data, RewrittenData) else data
    fingerprint = data_fingerprint(given.data) if isinstance(given, LiveTargets | ServedTargets) else None
    if isinstance(data, ServedTargets):
        facts = replace(facts, cache=data.fingerprint)
    if isinstance(data, CachedTargets):
        facts = replace(facts, cache_weights=data.weights)
    return replace(facts, sequences=len(data), data=fingerprint, precision=precision, ranks=ranks)


def _target(settings: DistillSettings, models: Models) -> str:
    """What is kept of the teacher: by the cache, or as asked for of a live one."""
    return str(models.cached or target_spec(settings.target))


def _hooks(
    settings: DistillSettings,
    models: Models,
    wrapped: WrappedModels,
    data: Data,
    across: Across | None,
    plan: Plan,
    run: RunDirectory,
    evaluator: Evaluator | None,
    progress: Progress,
) -> tuple[list[Hook], TrainingData]:
    """Evaluation and guard, and the data with what the guard can add to it."""
    given = data.given if isinstance(data, RewrittenData) else data
    measured = monitored(given, models)
    accepts = None if across is None else across.rewriter.accepts
    trained: TrainingData = data
    guard = Guard(settings.guard, run, plan.steps_per_epoch) if settings.guard.on else None
    if guard is not None:
        with_new = guarded(given, guard, settings, models, wrapped.teacher, accepts, progress)
        trained = data.of(with_new) if isinstance(data, RewrittenData) else with_new
        measured = with_new if measured is given else measured
    if evaluator is not None:
        run.write_prompts(evaluator.eval_set)
    monitors = None
    if models.training_teacher is not None and evaluator is not None:
        request = replace(response_request(settings, models.precision), sampling=SamplingSettings())
        monitors = TrainingMonitors(
            models.training_teacher,
            request,
            measured,
            distance=partial(_distance, models, across, run.group),
            accepts=accepts,
            group=run.group,
            progress=progress,
            order=plan.order,
        )
    steps = steps_of_evaluations(settings, models, wrapped, trained, plan, evaluator)
    tasks = Benchmarks(settings.evaluation, seed=settings.seed, group=run.group)
    caches = () if evaluator is None else recorded(models.caches, models.width, run.group)
    hooks = [
        Evaluation(steps, evaluator, monitors, run, caches),
        tasks,
        BestProxy(steps),
        *([] if guard is None else [guard]),
    ]
    return hooks, trained


def _distance(
    models: Models, across: Across | None, group: ProcessGroup, sequences: Sequence[TokenSequence]
) -> TrainingDistance:
    """Between teacher and student on responses of the teacher's."""
    if across is not None:
        return across.distance(sequences, models, group)
    assert models.teacher is not None
    return FixedKL(sequences, models.teacher, models.width, group=group)


def _writer(settings: DistillSettings, models: Models, precision: Precision) -> Writer | None:
    if not settings.loss.policy.weight:
        return None
    policy = policy_gradient(settings.loss)
    return Writer(policy=policy, width=models.width, start=models.start, precision=precision)


def _objective(settings: DistillSettings, models: Models, wrapped: WrappedModels, precision: Precision) -> Objective:
    return Objective(
        settings=settings.loss,
        model=wrapped.student.model,
        width=models.width,
        on_hidden=models.cached is not None and models.cached.kind == "projected",
        precision=precision,
        plain_head="student" in models.plain_heads,
    )
