"""What a distillation and the plain fine-tuning beside it have in common: the same models, plan and evaluations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from thack.config import DistillSettings
from thack.data.sequence import TokenSequence
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.run import open_eval_set
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import Progress
from thack.schema.metrics import Role
from thack.schema.run import Order, RunFacts
from thack.training.data import TrainingData
from thack.training.models import Models
from thack.training.monitors import PROMPTS as MONITORED
from thack.training.plan import Plan, plan_steps
from thack.training.run_directory import RunDirectory
from thack.training.schedule import Work, scheduled, work_of
from thack.training.sharding import WrappedModels, wrap_student, wrap_teacher


def wrap_models(settings: DistillSettings, models: Models, run: RunDirectory) -> WrappedModels:
    """Student and live teacher as the ranks share them."""
    background = settings.checkpoint.background
    student = wrap_student(models.student, settings.parallel, run.group, memory=settings.memory, background=background)
    teacher = None if models.teacher is None else wrap_teacher(models.teacher, settings.parallel, run.group)
    return WrappedModels(student=student, teacher=teacher)


def plan_of(settings: DistillSettings, data: TrainingData, order: Order) -> Plan:
    """Which sequences meet in which step."""
    return Plan(
        num_sequences=len(data),
        batch_size=settings.batch_size,
        seed=settings.seed,
        total_steps=plan_steps(len(data), settings.batch_size, settings.epochs, settings.steps),
        micro_batch_size=settings.micro_batch_size,
        window_steps=settings.source.refresh_steps,
        lengths=data.lengths,
        order=order,
    )


def with_eval_set(facts: RunFacts, evaluator: Evaluator | None) -> RunFacts:
    """`facts` with the evaluation set."""
    if evaluator is None:
        return facts
    found = evaluator.eval_set
    written = [response for role in found.origin.writers for response in found.responses[role]]
    return replace(facts, eval_set=found.fingerprint(), eval_prompts=len(found), eval_tokens=sum(map(len, written)))


def steps_of_evaluations(
    settings: DistillSettings,
    models: Models,
    wrapped: WrappedModels,
    data: TrainingData,
    plan: Plan,
    evaluator: Evaluator | None,
) -> list[int]:
    """The steps at which a run is evaluated."""
    work = None if evaluator is None else _work(settings, models, wrapped, data, plan, evaluator)
    return scheduled(settings.evaluation, plan.total_steps, work)


def _work(
    settings: DistillSettings,
    models: Models,
    wrapped: WrappedModels,
    data: TrainingData,
    plan: Plan,
    evaluator: Evaluator,
) -> Work:
    """Of a step and an evaluation, by the first sequences; where responses are yet to be sampled, by held-out ones."""
    if data.keeps_responses:
        examples = evaluator.eval_set.sequences(Role.TEACHER)
    else:
        examples = data.sequences(np.arange(min(plan.batch_size, len(data))), 0)

    def as_many(count: int) -> list[TokenSequence]:
        return [examples[i % len(examples)] for i in range(count)]

    return work_of(
        wrapped.student.model,
        models.references,
        step=as_many(min(plan.batch_size, len(data))),
        live=not models.caches,
        eval_set=evaluator.eval_set,
        samples=settings.evaluation.student_samples,
        monitored=as_many(min(MONITORED, len(data)) if models.teacher is not None else 0),
    )


def open_evaluator(
    settings: DistillSettings, models: Models, group: ProcessGroup, progress: Progress
) -> Evaluator | None:
    """On the held-out prompts. A file of them gets its responses once, and is stored in `settings.out` from then on."""
    if not settings.eval_data:
        return None

    def opened() -> EvalSet:
        return open_eval_set(
            Path(settings.eval_data),
            settings.out,
            models.references,
            readers=(models.student.tokenizer,),
            data=replace(settings.data, limit=0),
            seed=settings.seed,
            progress=progress,
        )

    with group.raise_on_all_ranks():
        eval_set = opened() if group.is_first else None
    with group.raise_on_all_ranks():
        eval_set = opened() if eval_set is None else eval_set  # the other ranks read what the first one wrote
        _note_teacher_prompts(models, eval_set, progress)
        evaluator = Evaluator(eval_set, models.references, settings.evaluation, seed=settings.seed, group=group)
        for line in evaluator.notes(models.student):
            progress.note(line)
        return evaluator


def _note_teacher_prompts(models: Models, eval_set: EvalSet, progress: Progress) -> None:
    """What the measures of a run mean whose cache's teacher has read prompts of its own."""
    if models.training_teacher is models.teacher:
        return
    progress.note("train_kl is not measured: the cache's teacher read prompts of its own, which a cache does not hold")
    if not eval_set.teacher_prompts:
        progress.note(
            "warning: the proxy's teacher reads the student's prompts, and the cache's teacher read its own: give the "
            "evaluation set `teacher_prompt`, or set `data.teacher_system` or `data.teacher_template` as for the cache"
        )
