"""Supervised fine-tuning: cross-entropy on given responses, the best validation loss kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thack.config import LossSettings, SftSettings
from thack.data import Record, read_records
from thack.data.encode import prepare
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.data.tokenizer import Tokenizer
from thack.errors import UsageError
from thack.losses import cross_entropy
from thack.models.batch import Batch
from thack.models.load import load_model, new_model
from thack.models.protocol import LanguageModel
from thack.runtime.device import apply_threads, choose_device, choose_dtype
from thack.runtime.process_group import ALONE, ProcessGroup, init_process_group
from thack.runtime.progress import SILENT, Progress
from thack.training.checkpoint import Snapshot
from thack.training.data import PairedData
from thack.training.loop import Job, Row, train
from thack.training.objective import has_plain_head, supervised
from thack.training.optimizer import build_optimizer
from thack.training.plan import Plan, plan_steps
from thack.training.run_directory import RunDirectory
from thack.training.saver import Saver
from thack.training.setup import begin, check_same_start, finish, own_dtype, width_of
from thack.training.sharding import as_module, wrap_student
from thack.training.validation import split_validation

VALIDATION = "validation/nll/token_mean"


def run_sft(
    settings: SftSettings,
    records: Sequence[Record] | None = None,
    progress: Progress = SILENT,
    *,
    validation: Sequence[Record] | None = None,
    name: str = "",
) -> Path:
    """Train on pairs of prompt and response; returns the directory of the model with the best validation loss.

    `records` stand in for settings.data.path, `validation` for the share of prompts that
    settings.validation_fraction takes out. A finished run is returned as it is, a stopped one goes on.
    `name` stands before the progress bar.
    """
    with init_process_group(choose_device(settings.device)) as group:
        progress = progress if group.is_first else SILENT
        run = RunDirectory(settings.out, settings, "sft", group)
        run.claim()
        if run.finished():
            progress.note(f"{run.path} is already there")
            return run.model
        apply_threads()
        with run.recorded():
            job, start = prepare_sft(settings, run, records, validation, progress)
            job.name = name or run.path.name
            train(job, start)
            finish(job, group)
    return run.model


def prepare_sft(
    settings: SftSettings,
    run: RunDirectory,
    records: Sequence[Record] | None,
    validation: Sequence[Record] | None,
    progress: Progress,
) -> tuple[Job, Snapshot]:
    """The job, and the point from which it goes on."""
    if records is None and not settings.data.path:
        raise UsageError("there is nothing to train on", hint="set `data.path` to a file of prompts with responses")
    device, group = choose_device(settings.device), run.group
    checkpoint = run.resumable(progress)
    with group.raise_on_all_ranks():
        model = load_model(checkpoint, role="student", device=device) if checkpoint else _first_model(settings, records)
        as_module(model).to(device)
        training, held_out = _pairs(settings, model.tokenizer, records, validation, progress)
        facts = {"model": model.fingerprint(), "tokenizer": model.tokenizer.fingerprint(), "sequences": len(training)}
    check_same_start(group, facts)
    plan = Plan(
        num_sequences=len(training),
        batch_size=settings.batch_size,
        seed=settings.seed,
        total_steps=plan_steps(len(training), settings.batch_size, settings.epochs, 0),
        lengths=np.array([len(s.prompt_ids) + len(s.response_ids) for s in training]),
    )
    dtype, reason = group.broadcast_from_rank0(choose_dtype(settings.dtype, device, width=width_of(model)))
    plain_head = has_plain_head(model, LossSettings())
    autocast = own_dtype(model, dtype, settings.memory)
    background = settings.checkpoint.background
    student = wrap_student(model, settings.parallel, group, memory=settings.memory, background=background)
    with group.raise_on_all_ranks():
        optimizer = build_optimizer(as_module(student.model), settings.optimizer)
        start = begin(student, optimizer, checkpoint)
        run.write_facts(
            {
                "model": settings.model,
                "tokenizer": facts["tokenizer"],
                "sequences": len(training),
                "validation_sequences": len(held_out),
                "dtype": f"{dtype} ({reason})".removeprefix("torch."),
                "ranks": group.world_size,
                "data": data_fingerprint([*training, *held_out]),
            },
            resumed=checkpoint is not None,
        )
        run.open_logs(start.step)
    state: Row = dict(start.trainer.get("state", {}))
    objective = supervised(student.model, autocast, plain_head=plain_head)
    ends = range(plan.steps_per_epoch, plan.total_steps + 1, plan.steps_per_epoch)
    job = Job(
        name=run.path.name,
        student=student,
        training_data=PairedData(training),
        loss=objective,
        fuses=objective.fuses,
        evaluate=lambda step: _validate(model, held_out, step, state, group),
        evaluation_steps=frozenset([0, *ends]),
        plan=plan,
        optimizer=optimizer,
        optimizer_settings=settings.optimizer,
        checkpoint=settings.checkpoint,
        run=run,
        saver=Saver(run.checkpoints, student, optimizer, group, settings.checkpoint),
        state=state,
        spent=start.trainer,
        protected=lambda: frozenset([state["best_step"]] if "best_step" in state else []),
        dtype=autocast,
        group=group,
        progress=progress,
    )
    return job, start


def _pairs(
    settings: SftSettings,
    tokenizer: Tokenizer,
    records: Sequence[Record] | None,
    validation: Sequence[Record] | None,
    progress: Progress,
) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """(training, validation)"""
    pairs = prepare(settings.data, tokenizer, need_response=True, records=records)
    progress.note(str(pairs.report))
    held_out = None
    if validation is not None:
        held_out = prepare(settings.data, tokenizer, need_response=True, records=validation).sequences
    return split_validation(pairs.sequences, held_out, settings.validation_fraction)


def _first_model(settings: SftSettings, records: Sequence[Record] | None) -> LanguageModel:
    """The model to start from: a directory, or a new decoder with a given or a new tokenizer."""
    if settings.model:
        return load_model(settings.model, role="student")
    if settings.tokenizer:
        tokenizer = Tokenizer.load(settings.tokenizer)
    else:
        read = read_records(Path(settings.data.path), settings.data.on_bad_line) if records is None else records
        texts = [text for r in read for text in (r.prompt, r.response) if text]
        tokenizer = Tokenizer.train(texts, settings.tokenizer_size)
    return new_model(settings.architecture, tokenizer, settings.seed)


def _validate(
    model: LanguageModel, sequences: Sequence[TokenSequence], step: int, state: Row, group: ProcessGroup
) -> Row:
    """Mean cross-entropy per token of the held-out pairs; remembers the best step, which `finish` publishes."""
    if not sequences:
        return {}
    nll = validation_nll(model, sequences, group=group)
    if step and nll < state.get("best_nll", float("inf")):
        state |= {"best_nll": nll, "best_step": step}
    return {VALIDATION: nll}


def validation_nll(
    model: Any, sequences: Sequence[TokenSequence], batch_size: int = 128, group: ProcessGroup = ALONE
) -> float:
    """−Σ log q(token) / number of tokens, in nats, dropout off; the train mode is left as it was.

    Ranks share the batches; their sums are added up in one order.
    """
    was_training = bool(model.training)
    order = sorted(sequences, key=lambda s: len(s.prompt_ids) + len(s.response_ids))
    model.eval()
    own: list[tuple[int, float]] = []
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            if group.owns(start // batch_size):
                batch = Batch.of(order[start : start + batch_size], model.device)
                own.append((start, float(cross_entropy(model(batch), batch.labels_N).double().sum())))
    model.train(was_training)
    return sum(nats for _, nats in sorted(group.all_gather(own))) / sum(len(s.response_ids) for s in sequences)
