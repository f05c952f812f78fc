"""`thack generate`: responses to prompts, with their exact token ids."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from thack.config import GenerateSettings, to_dict
from thack.data.date import follow_settings
from thack.data.eos import EndCounts
from thack.data.lengths import response_limit
from thack.data.prepare import prepare
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.data.store import find_responses, write_responses
from thack.files import claim_output
from thack.generation.kept import KeptResponses
from thack.generation.sampler import GenerationRequest, respond
from thack.models.load import load_model
from thack.models.precision import Precision, inference_precision
from thack.models.protocol import LanguageModel
from thack.runtime.device import apply_threads, choose_device
from thack.runtime.lock import locked
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded
from thack.schema import document
from thack.schema.generation import GenerateResult, GenerationFacts, ResponsesManifest

PARTIAL = "responses.partial.jsonl"  # until all are complete


def run_generate(settings: GenerateSettings, progress: Progress = SILENT) -> GenerateResult:
    """Write `settings.samples` responses per prompt into `settings.out`.

    Args:
        settings: of the generation; the same ones return the responses that are complete already.
        progress: counts responses.

    Returns:
        The directory, with counts.

    Raises:
        UsageError: `out` holds something else.
        MismatchError: `out` has responses of other settings, another model or other prompts, or a part of them.
        Preempted, Interrupted: stopped by a signal; complete batches are kept, and the next call resumes there.
        DataError: a prompt and its response exceed the model's positions, or the data cannot be read.
    """
    with locked(settings.out, progress):
        claim_output(settings.out, "responses")
        work = _Generation(settings, progress)
        with recorded(settings.out, "responses", kept=work.kept_so_far):
            manifest = work.run()
    return GenerateResult(
        out=settings.out,
        responses=manifest.responses,
        tokens=manifest.tokens,
        finished=manifest.finished,
        truncated=manifest.truncated,
        content=manifest.content,
    )


class _Generation:
    """One call of the command: what it has done so far can be asked when a signal ends it."""

    def __init__(self, settings: GenerateSettings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._kept: KeptResponses | None = None
        self._total = 0

    def kept_so_far(self) -> str:
        """What is on disk."""
        if self._kept is None:
            return ""
        return f"{self._kept.num_responses:,} of {self._total:,} responses in {self._settings.out}"

    def run(self) -> ResponsesManifest:
        """Sample what is not there yet, and write all of it."""
        settings, progress = self._settings, self._progress
        apply_threads()
        device = choose_device(settings.device)
        model = load_model(settings.model, role="model", device=device, options=settings.load, progress=progress)
        follow_settings(model, settings.data, settings.out)
        precision = inference_precision(model, settings.dtype)
        prepared = prepare(settings.data, model.tokenizer, need_response=False)
        for line in prepared.report.lines():
            progress.note(line)
        facts = _facts(settings, model, prepared.sequences, precision)
        partial = settings.out / PARTIAL
        if (manifest := find_responses(settings.out, facts)) is not None:
            partial.unlink(missing_ok=True)
            progress.note(f"{settings.out} is already complete")
            return manifest
        self._total = settings.samples * len(prepared.sequences)
        self._kept = KeptResponses(partial, document.dump(facts) | {"batch_size": settings.batch_size})
        if found := self._kept.num_responses:
            progress.note(f"resuming: {found:,} of {self._total:,} responses are kept")
        with closing(self._kept):
            sequences = self._sample(model, prepared.sequences, precision, facts.max_response_tokens)
            ends = EndCounts.of_sequences(sequences, model.tokenizer.ends, maximum=facts.max_response_tokens)
            for warning in ends.warnings():
                progress.note(f"warning: {warning}")
            manifest = write_responses(settings.out, sequences, model.tokenizer, records=prepared.records, facts=facts)
            self._kept.remove()
        return manifest

    def _sample(
        self, model: LanguageModel, prompts: Sequence[TokenSequence], precision: Precision, longest: int
    ) -> list[TokenSequence]:
        assert self._kept is not None
        settings = self._settings
        precision.round_weights(model)  # its fingerprint is taken, and nothing reads it in float32
        request = GenerationRequest(
            sampling=settings.sampling,
            max_new_tokens=longest,
            seed=settings.seed,
            batch_size=settings.batch_size,
            precision=precision,
        )
        sequences: list[TokenSequence] = []
        for sample in range(settings.samples):
            kept = self._kept.stream(sample)
            sequences += respond(model, prompts, request, samples=sample, progress=self._progress, kept=kept)
        return sequences


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
