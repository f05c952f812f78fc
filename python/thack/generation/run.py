"""`thack generate`: responses to prompts, with their exact token ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from thack.config import GenerateSettings, to_dict
from thack.data.date import follow_settings
from thack.data.index import IndexedSequences, index_data
from thack.data.lengths import response_limit
from thack.data.records import Record
from thack.data.sequence import TokenSequence
from thack.data.store import find_responses, write_responses
from thack.data.teacher_prompt import refuse_teacher_prompts
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
_WINDOW = 1 << 14  # prompts that are read, and sorted by length, together


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
        data = index_data(settings.data, model.tokenizer, need_response=False, directory=None, progress=progress)
        for line in data.footer.lines:
            progress.note(line)
        refuse_teacher_prompts(data.has_teacher_prompts, "generate writes from the prompt that all models read")
        facts = _facts(settings, model, data.fingerprint, precision)
        partial = settings.out / PARTIAL
        if (manifest := find_responses(settings.out, facts)) is not None:
            partial.unlink(missing_ok=True)
            progress.note(f"{settings.out} is already complete")
            return manifest
        self._total = settings.samples * len(data)
        self._kept = KeptResponses(partial, document.dump(facts) | {"batch_size": settings.batch_size})
        if found := self._kept.num_responses:
            progress.note(f"resuming: {found:,} of {self._total:,} responses are kept")
        with closing(self._kept):
            answered = self._sample(model, data, precision, facts.max_response_tokens)
            manifest, ends = write_responses(settings.out, answered, model.tokenizer, facts=facts)
            for warning in ends.warnings():
                progress.note(f"warning: {warning}")
            self._kept.remove()
        return manifest

    def _sample(
        self, model: LanguageModel, data: IndexedSequences, precision: Precision, longest: int
    ) -> Iterator[tuple[Record, TokenSequence]]:
        """Every sample of every prompt, in order. A window of prompts is in memory, which batches by length are of."""
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
        for sample in range(settings.samples):
            for window, first in enumerate(range(0, len(data), _WINDOW)):
                read = list(data.with_records(range(first, min(first + _WINDOW, len(data)))))
                prompts = [s for _, s in read]
                kept = self._kept.stream(sample + settings.samples * window)
                found = respond(model, prompts, request, samples=sample, progress=self._progress, kept=kept)
                yield from ((record, s) for (record, _), s in zip(read, found, strict=True))


def _facts(settings: GenerateSettings, model: LanguageModel, data: str, precision: Precision) -> GenerationFacts:
    return GenerationFacts(
        model=model.fingerprint(),
        data=data,
        seed=settings.seed,
        samples=settings.samples,
        sampling=to_dict(settings.sampling),
        max_response_tokens=response_limit(settings.data),
        dtype=precision.name,
    )
