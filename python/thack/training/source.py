"""Who writes the responses of a run: settings and models to a `ResponseSource`."""

from __future__ import annotations

from dataclasses import replace

from thack.config import DistillSettings
from thack.data.encode import prepare
from thack.data.sequence import TokenSequence
from thack.generation.sampler import GenerationRequest
from thack.generation.sources import Mixture, Offline, Online, ResponseSource
from thack.models.precision import Precision
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import Progress


def build_source(
    settings: DistillSettings,
    teacher: LanguageModel,
    student: LanguageModel,
    precisions: tuple[Precision, Precision],
    group: ProcessGroup,
    progress: Progress,
) -> tuple[ResponseSource, list[TokenSequence]]:
    """The source, and its data set: prompts by position, with responses where the data holds them.

    `precisions` are the teacher's and the student's.
    """
    source = settings.source
    given = source.kind in ("offline", "mixture")
    prepared = prepare(settings.data, student.tokenizer, need_response=given)
    progress.note(str(prepared.report))
    data = prepared.sequences
    if source.kind == "offline":
        return Offline(data), data
    by_student = source.kind == "online-student" or (source.kind == "mixture" and source.online_by == "student")
    request = replace(response_request(settings, precisions[by_student]), batch_size=source.batch_size)
    online = Online(student if by_student else teacher, data, request, group=group)
    if source.kind == "mixture":
        return Mixture(Offline(data), online, fraction=source.online_fraction, seed=settings.seed), data
    return online, data


def response_request(settings: DistillSettings, precision: Precision) -> GenerationRequest:
    """How a run has responses written that it trains on."""
    return GenerationRequest(
        sampling=settings.source.sampling,
        max_new_tokens=settings.data.max_response_tokens,
        seed=settings.seed,
        precision=precision,
    )
