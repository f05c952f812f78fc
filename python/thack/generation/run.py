"""`thack generate`: responses to prompts, with their exact token ids."""

from __future__ import annotations

from collections.abc import Sequence
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
from thack.generation.sampler import GenerationRequest, generate
from thack.models.load import load_model
from thack.models.protocol import LanguageModel
from thack.runtime.device import apply_threads, choose_device, choose_dtype
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded


def run_generate(settings: GenerateSettings, progress: Progress = SILENT) -> dict[str, Any]:
    """Write settings.samples responses per prompt into settings.out; returns the manifest and the directory.

    Those that are there already are returned as they are; others there are not written over.
    """
    _check(settings)
    claim_output(settings.out, "responses")
    with recorded(settings.out, "responses"):
        return _write(settings, progress)


def _write(settings: GenerateSettings, progress: Progress) -> dict[str, Any]:
    apply_threads()
    device = choose_device(settings.device)
    model = load_model(settings.model, role="model", device=device, options=settings.load)
    dtype, _ = choose_dtype(settings.dtype, device, width=model.head().in_features)
    model.to(dtype)  # type: ignore[attr-defined]
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
        "dtype": str(dtype).removeprefix("torch."),
    }
    if (manifest := written_before(settings.out, facts)) is not None:
        progress.note(f"{settings.out} is already there")
        return {**manifest, "out": str(settings.out)}
    sequences = _respond(model, prepared.sequences, settings, progress)
    manifest = write_responses(
        settings.out,
        sequences,
        model.tokenizer,
        records={record.prompt_id: record for record in records},
        facts=facts,
    )
    return {**manifest, "out": str(settings.out)}


def _respond(
    model: LanguageModel, prompts: Sequence[TokenSequence], settings: GenerateSettings, progress: Progress
) -> list[TokenSequence]:
    """`settings.samples` responses to every prompt: first one to each, then the second ones, and so on."""
    request = GenerationRequest(
        sampling=settings.sampling,
        max_new_tokens=settings.data.max_response_tokens,
        seed=settings.seed,
        batch_size=settings.batch_size,
    )
    texts, examples = [s.prompt_ids for s in prompts], [s.example for s in prompts]
    found: list[TokenSequence] = []
    for sample in range(settings.samples):
        responses = generate(model, texts, request, examples=examples, samples=sample, progress=progress)
        found += [s.with_response(ids, sample) for s, ids in zip(prompts, responses, strict=True)]
    return found


def _check(settings: GenerateSettings) -> None:
    if not settings.model:
        raise UsageError("generating needs a model", hint="set `model` to its directory")
    if not settings.data.path:
        raise UsageError("generating needs prompts", hint="set `data.path` to a file of prompts")
