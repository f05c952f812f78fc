"""Supervised fine-tuning: cross-entropy on given responses, the best validation loss kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thack.config.settings import SftSettings
from thack.corpus import Record, read_records
from thack.errors import UsageError
from thack.losses import cross_entropy
from thack.models.batch import Batch
from thack.models.load import load_model, new_model
from thack.models.protocol import LanguageModel
from thack.models.tokenizer import Tokenizer
from thack.responses import prepare
from thack.runtime.device import apply_threads, choose_device, choose_dtype
from thack.runtime.progress import SILENT, Progress
from thack.targets import TokenSequence
from thack.training.checkpoint import Snapshot, as_module, read_snapshot, restore_optimizer
from thack.training.loop import Job, Row, train
from thack.training.material import Pairs
from thack.training.optimizer import build_optimizer
from thack.training.plan import Plan, plan_steps
from thack.training.rundir import RunDirectory
from thack.training.setup import finish, recorded, width_of
from thack.training.team import Team
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
    run = RunDirectory(settings.out, settings, "sft")
    run.claim()
    if run.finished():
        progress.note(f"{run.path} is already there")
        return run.model
    apply_threads()
    with recorded(run):
        job, start = prepare_sft(settings, run, records, validation, progress)
        job.name = name or run.path.name
        train(job, start)
        finish(job, job.team)
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
        raise UsageError("there is nothing to train on", hint="give --data pairs.jsonl")
    device = choose_device(settings.device)
    checkpoint = run.resumable(progress)
    model = load_model(checkpoint, role="student", device=device) if checkpoint else _first_model(settings, records)
    as_module(model).to(device)
    pairs = prepare(settings.data, model.tokenizer, need_response=True, records=records)
    progress.note(str(pairs.report))
    held_out = None
    if validation is not None:
        held_out = prepare(settings.data, model.tokenizer, need_response=True, records=validation).sequences
    training, held_out = split_validation(pairs.sequences, held_out, settings.validation_fraction)
    plan = Plan(
        num_sequences=len(training),
        batch_size=settings.batch_size,
        seed=settings.seed,
        total_steps=plan_steps(len(training), settings.batch_size, settings.epochs, 0),
        lengths=np.array([len(s.prompt_ids) + len(s.response_ids) for s in training]),
    )
    dtype, reason = choose_dtype(settings.dtype, device, width=width_of(model))
    optimizer = build_optimizer(as_module(model), settings.optimizer)
    start = Snapshot(step=0, trainer={})
    if checkpoint:
        start = read_snapshot(checkpoint)
        restore_optimizer(as_module(model), optimizer, checkpoint)
    run.open_logs(start.step)
    state: Row = dict(start.trainer.get("state", {}))
    run.write_facts(
        {
            "model": settings.model,
            "tokenizer": model.tokenizer.fingerprint(),
            "sequences": len(training),
            "validation_sequences": len(held_out),
            "dtype": f"{dtype} ({reason})".removeprefix("torch."),
        }
    )
    ends = range(plan.steps_per_epoch, plan.total_steps + 1, plan.steps_per_epoch)
    job = Job(
        name=run.path.name,
        model=model,
        material=Pairs(training),
        loss=lambda logits_NV, _, labels_N: cross_entropy(logits_NV, labels_N),
        evaluate=lambda step: _validate(model, held_out, step, state),
        evaluation_steps=frozenset([0, *ends]),
        plan=plan,
        optimizer=optimizer,
        optimizer_settings=settings.optimizer,
        checkpoint=settings.checkpoint,
        run=run,
        state=state,
        spent=start.trainer,
        protected=lambda: frozenset([state["best_step"]] if "best_step" in state else []),
        dtype=dtype,
        team=Team(),
        progress=progress,
    )
    return job, start


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


def _validate(model: LanguageModel, sequences: Sequence[TokenSequence], step: int, state: Row) -> Row:
    """Mean cross-entropy per token of the held-out pairs; remembers the best step, which `finish` publishes."""
    if not sequences:
        return {}
    nll = validation_nll(model, sequences)
    if step and nll < state.get("best_nll", float("inf")):
        state |= {"best_nll": nll, "best_step": step}
    return {VALIDATION: nll}


def validation_nll(model: Any, sequences: Sequence[TokenSequence], batch_size: int = 128) -> float:
    """−Σ log q(token) / number of tokens, in nats, dropout off; the train mode is left as it was."""
    was_training = bool(model.training)
    order = sorted(sequences, key=lambda s: len(s.prompt_ids) + len(s.response_ids))
    model.eval()
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = Batch.of(order[start : start + batch_size], model.device)
            total += float(cross_entropy(model(batch), batch.labels_N).double().sum())
            tokens += len(batch.labels_N)
    model.train(was_training)
    return total / tokens
