"""`thack generate`: responses to prompts, with their exact token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from thack.config import GenerateSettings, to_dict
from thack.data import read_records
from thack.data.encode import prepare
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.data.store import write_responses, written_before
from thack.errors import UsageError
from thack.files import claim_output
from thack.generation.sampler import GenerationRequest, respond
from thack.models.load import load_model
from thack.models.precision import inference_precision
from thack.runtime.device import apply_threads, choose_device
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded
from thack.schema.generation import GenerateResult


def run_generate(settings: GenerateSettings, progress: Progress = SILENT) -> GenerateResult:
    """Write settings.samples responses per prompt into settings.out; returns what is there then.

    Those that are there already are returned as they are; others there are not written over.
    """
    _check(settings)
    claim_output(settings.out, "responses")
    with recorded(settings.out, "responses"):
        return _write(settings, progress)


def _write(settings: GenerateSettings, progress: Progress) -> GenerateResult:
    apply_threads()
    device = choose_device(settings.device)
    model = load_model(settings.model, role="model", device=device, options=settings.load)
    precision = inference_precision(model, settings.dtype)
    skipped: list[str] = []
    records = read_records(Path(settings.data.path), settings.data.on_bad_line, skipped=skipped)
    prepared = prepare(settings.data, model.tokenizer, need_response=False, records=records)
    progress.note(str(replace(prepared.report, skipped_lines=tuple(skipped))))
    facts = {
        "model": model.fingerprint(),
        "data": data_fingerprint(prepared.sequences),
        "seed": settings.seed,
        "samples": settings.samples,
        "sampling": to_dict(settings.sampling),
        "max_response_tokens": settings.data.max_response_tokens,
        "dtype": precision.name,
    }
    if (manifest := written_before(settings.out, facts)) is not None:
        progress.note(f"{settings.out} is already there")
        return _result(settings.out, manifest)
    precision.round_weights(model)  # its fingerprint is taken, and nothing reads it in float32
    request = GenerationRequest(
        sampling=settings.sampling,
        max_new_tokens=settings.data.max_response_tokens,
        seed=settings.seed,
        batch_size=settings.batch_size,
        precision=precision,
    )
    sequences: list[TokenSequence] = []
    for sample in range(settings.samples):
        sequences += respond(model, prepared.sequences, request, samples=sample, progress=progress)
    manifest = write_responses(
        settings.out,
        sequences,
        model.tokenizer,
        records={record.prompt_id: record for record in records},
        facts=facts,
    )
    return _result(settings.out, manifest)


def _result(out: Path, manifest: Mapping[str, Any]) -> GenerateResult:
    counts = {key: manifest[key] for key in ("responses", "tokens", "finished", "content")}
    return GenerateResult(out=out, **counts)


def _check(settings: GenerateSettings) -> None:
    if not settings.model:
        raise UsageError("generating needs a model", hint="set `model` to its directory")
    if not settings.data.path:
        raise UsageError("generating needs prompts", hint="set `data.path` to a file of prompts")
