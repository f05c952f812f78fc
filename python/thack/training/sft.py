"""Supervised fine-tuning: cross-entropy on given responses; the model with the best validation loss is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from thack.config import LossSettings, SftSettings
from thack.data import Record
from thack.data.date import follow_settings
from thack.data.readers import each_record
from thack.data.sequence import data_fingerprint
from thack.data.spool import SpooledSequences, spool
from thack.data.store import read_manifest
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.models.load import load_student, new_model
from thack.models.native.architecture import ties_head
from thack.models.protocol import LanguageModel
from thack.runtime.progress import SILENT, Progress
from thack.schema.run import Order, RunFacts
from thack.training.checkpoint import Snapshot
from thack.training.data import PairedData
from thack.training.models import with_base
from thack.training.objective import has_plain_head, supervised
from thack.training.optimizer import Optimizer
from thack.training.order import order_of
from thack.training.plan import Plan, plan_steps
from thack.training.run_directory import RunDirectory
from thack.training.schedule import num_weights
from thack.training.setup import balance, check_same_start, run_training, starting_point, training_precision
from thack.training.sharding import WrappedModels, as_module, wrap_student
from thack.training.trainer import Trainer
from thack.training.validation import Validation, is_held_out

Pairs = Sequence[Record] | None
_READ_STEPS = 16  # whose sequences are read at one time


def run_sft(
    settings: SftSettings,
    records: Pairs = None,
    progress: Progress = SILENT,
    *,
    validation: Pairs = None,
    name: str = "",
) -> Path:
    """Train on pairs of prompt and response.

    Args:
        settings: What to train on what. A finished run in `settings.out` is returned, a stopped one resumed.
        records: The pairs, instead of those in `settings.data.path`.
        progress: Where to show progress.
        validation: Held-out pairs, instead of a share of the prompts (`settings.validation_fraction`).
        name: Stands before the progress bar; empty: the name of the directory.

    Returns:
        The directory of the model with the best validation loss.

    Raises:
        UsageError: there is nothing to train on, or the directory holds another run.
        DivergedError: the loss is no longer finite.
        Preempted, Interrupted: stopped by a signal; call it again to resume.
    """
    prepared = partial(prepare_sft, settings, records=records, validation=validation)
    return run_training(settings, "sft", prepared, progress, name).model


def prepare_sft(
    settings: SftSettings,
    run: RunDirectory,
    device: torch.device,
    progress: Progress,
    *,
    records: Pairs,
    validation: Pairs,
) -> tuple[Trainer, Snapshot]:
    """The trainer, and the point to start from. Every rank calls it; parts that do not communicate fail together."""
    group, checkpoint = run.group, run.resumable(progress)
    earlier = run.earlier_facts(resumed=checkpoint is not None)
    with group.raise_on_all_ranks():
        model = _model(settings, records, checkpoint, device, progress)
        as_module(model).to(device)
        follow_settings(model, settings.data, run.path)
        training, held_out = _pairs(settings, model.tokenizer, records, validation, progress, run.path)
        found = RunFacts(
            models={"student": model.fingerprint()},
            origins={"student": settings.model} if settings.model else {},
            tokenizer=model.tokenizer.fingerprint(),
            data=data_fingerprint(chain(training, held_out)),
            written_by=_written_by(settings, records),
            sequences=len(training),
            validation_sequences=len(held_out),
            ranks=group.world_size,
        )
        facts = with_base(found, model)
    check_same_start(group, facts)
    plain_head = has_plain_head(model, LossSettings())
    precision = training_precision(model, settings.dtype, settings.memory, group)
    background = settings.checkpoint.background
    student = wrap_student(model, settings.parallel, group, memory=settings.memory, background=background)
    balance(student.model, settings.router_loss, progress)
    with group.raise_on_all_ranks():
        data = PairedData(training)
        plan = _plan(settings, data, order_of(len(data), earlier))
        optimizer = Optimizer(as_module(student.model), settings.optimizer)
        start = starting_point(student, optimizer.adamw, checkpoint)
        run.write_facts(
            replace(facts, precision={"student": str(precision)}, order=plan.order), resumed=checkpoint is not None
        )
        run.open_logs(start.step)
    epochs = range(plan.steps_per_epoch, plan.total_steps + 1, plan.steps_per_epoch)
    trainer = Trainer(
        models=WrappedModels(student=student),
        data=data,
        objective=supervised(student.model, precision, plain_head=plain_head),
        optimizer=optimizer,
        plan=plan,
        run=run,
        checkpoint=settings.checkpoint,
        hooks=[Validation([0, *epochs], held_out, group)],
        progress=progress,
    )
    return trainer, start


def _written_by(settings: SftSettings, records: Pairs) -> str:
    """The model whose responses are trained on, where the data says it."""
    found = read_manifest(Path(settings.data.path)) if records is None and settings.data.path else None
    return "" if found is None else found.facts.model


def _plan(settings: SftSettings, data: PairedData, order: Order) -> Plan:
    return Plan(
        num_sequences=len(data),
        batch_size=settings.batch_size,
        seed=settings.seed,
        total_steps=plan_steps(len(data), settings.batch_size, settings.epochs, 0),
        window_steps=_READ_STEPS,
        lengths=data.lengths,
        order=order,
    )


def _pairs(
    settings: SftSettings,
    tokenizer: Tokenizer,
    records: Pairs,
    validation: Pairs,
    progress: Progress,
    directory: Path,
) -> tuple[SpooledSequences, SpooledSequences]:
    """(training, validation)"""
    training, held_out = SpooledSequences(directory), SpooledSequences(directory)
    fraction = settings.validation_fraction if validation is None else 0.0
    pairs = DataStream(settings.data, tokenizer, need_response=True, records=records, progress=progress)
    for s in (s for chunk in pairs for s in chunk.sequences):
        (held_out if is_held_out(s.prompt_id, fraction) else training).append(s)
    for line in pairs.report.lines():
        progress.note(line)
    if validation is not None:
        given = DataStream(settings.data, tokenizer, need_response=True, records=validation, progress=progress)
        held_out = spool(given, directory)
    return training, held_out


def _model(
    settings: SftSettings, records: Pairs, checkpoint: Path | None, device: torch.device, progress: Progress
) -> LanguageModel:
    if checkpoint is None and not settings.model:
        return _new_model(settings, records, progress)
    return load_student(settings.model, settings.lora, seed=settings.seed, checkpoint=checkpoint, device=device)


def _new_model(settings: SftSettings, records: Pairs, progress: Progress) -> LanguageModel:
    """A new decoder with a given or a new tokenizer."""
    if settings.tokenizer:
        tokenizer = Tokenizer.load(settings.tokenizer)
    else:
        read = each_record(settings.data) if records is None else records
        texts = (text for r in read if isinstance(r, Record) for text in (r.prompt, r.response) if text)
        tokenizer = Tokenizer.train(texts, settings.tokenizer_size)
    model = new_model(settings.architecture, tokenizer, settings.seed)
    progress.note(_size(model, tied=ties_head(settings.architecture, tokenizer.size)))
    return model


def _size(model: LanguageModel, *, tied: bool) -> str:
    """Its weights, and how many of them embedding and head are: with a large vocabulary, most of a small model's."""
    table = model.head().weight.numel()
    shared = f"embedding and head, shared, {table:,}" if tied else f"embedding {table:,}, head {table:,}"
    return f"new model: {num_weights(model):,} weights ({shared})"
