"""`thack generate`: responses to prompts, with their exact token ids."""

from __future__ import annotations

from collections.abc import Sequence

from thack.config import GenerateSettings, to_dict
from thack.data.date import follow_settings
from thack.data.eos import EndCounts
from thack.data.lengths import response_limit
from thack.data.prepare import prepare
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.data.store import find_responses, write_responses
from thack.errors import UsageError
from thack.files import claim_output
from thack.generation.sampler import GenerationRequest, respond
from thack.models.load import load_model
from thack.models.precision import Precision, inference_precision
from thack.models.protocol import LanguageModel
from thack.runtime.device import apply_threads, choose_device
from thack.runtime.lock import locked
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded
from thack.schema.generation import GenerateResult, GenerationFacts, ResponsesManifest


def run_generate(settings: GenerateSettings, progress: Progress = SILENT) -> GenerateResult:
    """Write `settings.samples` responses per prompt into `settings.out`.

    Args:
        settings: of the generation; the same ones return the responses that are complete already.
        progress: counts responses.

    Returns:
        The directory, with counts.

    Raises:
        UsageError: no model or no prompts are given.
        MismatchError: `out` has responses of other settings, another model or other prompts.
        DataError: a prompt and its response exceed the model's positions, or the data cannot be read.
    """
    if not settings.model:
        raise UsageError("generating needs a model", hint="set `model` to its directory")
    if not settings.data.path:
        raise UsageError("generating needs prompts", hint="set `data.path` to a file of prompts")
    with locked(settings.out, progress):
        claim_output(settings.out, "responses")
        with recorded(settings.out, "responses"):
            manifest = _write(settings, progress)
    return GenerateResult(
        out=settings.out,
        responses=manifest.responses,
        tokens=manifest.tokens,
        finished=manifest.finished,
        truncated=manifest.truncated,
        content=manifest.content,
    )


def _write(settings: GenerateSettings, progress: Progress) -> ResponsesManifest:
    apply_threads()
    device = choose_device(settings.device)
    model = load_model(settings.model, role="model", device=device, options=settings.load, progress=progress)
    follow_settings(model, settings.data, settings.out)
    precision = inference_precision(model, settings.dtype)
    prepared = prepare(settings.data, model.tokenizer, need_response=False)
    for line in prepared.report.lines():
        progress.note(line)
    facts = _facts(settings, model, prepared.sequences, precision)
    if (manifest := find_responses(settings.out, facts)) is not None:
        progress.note(f"{settings.out} is already complete")
        return manifest
    precision.round_weights(model)  # its fingerprint is taken, and nothing reads it in float32
    request = GenerationRequest(
        sampling=settings.sampling,
        max_new_tokens=facts.max_response_tokens,
        seed=settings.seed,
        batch_size=settings.batch_size,
        precision=precision,
    )
    sequences: list[TokenSequence] = []
    for sample in range(settings.samples):
        sequences += respond(model, prepared.sequences, request, samples=sample, progress=progress)
    ends = EndCounts.of_sequences(sequences, model.tokenizer.ends, maximum=facts.max_response_tokens)
    for warning in ends.warnings():
        progress.note(f"warning: {warning}")
    return write_responses(settings.out, sequences, model.tokenizer, records=prepared.records, facts=facts)


def _facts(
    settings: GenerateSettings, model: LanguageModel, prompts: Sequence[TokenSequence], precision: Precision
) -> GenerationFacts:
    return GenerationFacts(
        model=model.fingerprint(),
        data=data_fingerprint(prompts),
        seed=settings.seed,
        samples=settings.samples,
        sampling=to_dict(settings.sampling),
        max_response_tokens=response_limit(settings.data),
        dtype=precision.name,
    )
