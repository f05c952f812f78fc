"""Plain fine-tuning beside a distillation, so that one can say what the teacher's distributions were worth.

The same student, responses, order, batches, steps, seed, optimizer and learning rate; the loss is the cross-entropy on
the response tokens. The responses are those that the distillation trains on: of its cache, or of its data. Both runs
are evaluated at the same steps on the same evaluation set.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from thack.config import DistillSettings, LossSettings
from thack.data.sequence import data_fingerprint
from thack.runtime.progress import Progress
from thack.training.across import Across
from thack.training.assembly import open_evaluator, plan_of, steps_of_evaluations, with_eval_set, wrap_models
from thack.training.benchmarks import Benchmarks
from thack.training.build_data import supervised_data
from thack.training.checkpoint import Snapshot
from thack.training.clock import Clock
from thack.training.data import PairedData
from thack.training.hooks import BestProxy, Evaluation
from thack.training.models import load_models
from thack.training.objective import supervised
from thack.training.optimizer import Optimizer
from thack.training.order import order_of
from thack.training.run_directory import RunDirectory
from thack.training.setup import balance, check_same_start, starting_point, train_in, training_precision
from thack.training.sharding import as_module
from thack.training.trainer import Trainer


def train_supervised(
    settings: DistillSettings, distillation: RunDirectory, device: torch.device, progress: Progress
) -> None:
    """Train, or resume, the fine-tuning beside a distillation that has its model; a finished one is left alone.

    Args:
        settings: Of the distillation.
        distillation: Its directory; the fine-tuning is the run `sft` within it.
        device: Of the student.
        progress: Where to show progress.

    Raises:
        As of `run_distill`.
    """
    loss = LossSettings(weight=0.0, ce_weight=1.0, fused=settings.loss.fused)
    own = replace(settings, out=distillation.supervised, loss=loss, baseline="none")
    run = RunDirectory(own, "sft", distillation.group, f"{distillation.name} (sft)", within=distillation)
    train_in(run, partial(prepare_supervised, settings), device, progress)


def prepare_supervised(
    settings: DistillSettings, run: RunDirectory, device: torch.device, progress: Progress
) -> tuple[Trainer, Snapshot]:
    """The trainer, and the point to start from; `settings` are the distillation's."""
    group, checkpoint = run.group, run.resumable(progress)
    earlier = run.earlier_facts(resumed=checkpoint is not None)
    models = load_models(settings, checkpoint, device, group, progress)
    evaluator = open_evaluator(settings, models, group, progress)
    with group.raise_on_all_ranks():
        facts = with_eval_set(models.facts(), evaluator)
    check_same_start(group, facts)
    precision = training_precision(models.student, settings.dtype, settings.memory, group)
    wrapped = wrap_models(settings, models, run)
    balance(wrapped.student.model, settings.router_loss, progress)
    across = Across.of(settings, models, run, progress)
    with group.raise_on_all_ranks():
        given = supervised_data(settings, models, progress)
        data = given if across is None else across.pairs(given)
        plan = plan_of(settings, data, order_of(len(data), earlier))
        optimizer = Optimizer(as_module(wrapped.student.model), settings.optimizer)
        start = starting_point(wrapped.student, optimizer.adamw, checkpoint)
        facts = replace(
            facts,
            sequences=len(data),
            data=data_fingerprint(given.pairs) if isinstance(given, PairedData) else None,
            precision=models.precisions(precision, evaluates=evaluator is not None),
            ranks=group.world_size,
            order=plan.order,
        )
        run.write_facts(facts, resumed=checkpoint is not None)
        run.open_logs(start.step)
    if evaluator is not None:
        run.write_prompts(evaluator.eval_set)
    steps = steps_of_evaluations(settings, models, wrapped, data, plan, evaluator)
    trainer = Trainer(
        models=wrapped,
        data=data,
        objective=supervised(wrapped.student.model, precision, plain_head="student" in models.plain_heads),
        optimizer=optimizer,
        plan=plan,
        run=run,
        checkpoint=settings.checkpoint,
        hooks=[
            Evaluation(steps, evaluator, None, run),
            Benchmarks(settings.evaluation, seed=settings.seed, group=group),
            BestProxy(steps),
        ],
        clock=Clock(settings.profile),
        progress=progress,
    )
    return trainer, start
