"""A policy gradient on given responses: they must be the student's own, and its teacher should have taught it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thack.cache.format.writer import read_writer, written_by
from thack.config import DistillSettings, SamplingSettings, from_dict
from thack.errors import DataError, MismatchError, ModelError, UsageError
from thack.models.checkpoint import SAMPLED, fingerprint_like
from thack.models.hub import locate
from thack.reading import read_json
from thack.schema.cache import ResponseWriter
from thack.schema.run import Manifest
from thack.training.models import Models

_HOW = "let `thack generate` write them with the student as `model`, and give them to `thack cache-logits` as `data`"


def check_start_wrote(settings: DistillSettings, models: Models) -> list[str]:
    """Refuse given responses that the student did not write as it is at the start; what is to be known beside it.

    Raises:
        UsageError: it is not known who wrote them, or they were not sampled from the model's own distribution.
        MismatchError: another model wrote them.
    """
    places = [cache.directory for cache in models.caches] or [Path(settings.data.path)]
    read = read_writer if models.caches else written_by
    for place in places:
        _check_writer(place, read(place), models)
    return [_consistency(settings.student, models)]


def _check_writer(place: Path, writer: ResponseWriter | None, models: Models) -> None:
    if writer is None:
        raise UsageError(
            f"{place} does not say who wrote its responses",
            details=("a policy gradient needs responses that the student itself wrote as the run starts",),
            hint=_HOW,
        )
    base, start = models.student.facts.base, models.start
    start = models.student if start is None and base is None else start
    found = fingerprint_like(writer.model, start) if start is not None else base.fingerprint if base else ""
    if writer.model != found:
        raise MismatchError(
            f"the responses of {place} were written by another model than the student",
            details=(f"writer   {writer.model}", f"student  {found}"),
            hint=f"train from responses of the student's own start: {_HOW}",
        )
    sampling = from_dict(SamplingSettings, dict(writer.sampling))
    if sampling != SamplingSettings():
        raise UsageError(
            f"the responses of {place} were not sampled from the student's own distribution: {sampling}",
            hint="write them again with temperature 1 and without top-k, top-p, min-p or greedy",
        )


def _consistency(student: str, models: Models) -> str:
    """Whether the teacher is the one whose responses the student was fine-tuned on (arXiv 2604.13010)."""
    first = _taught_by(student)
    teachers = _fingerprints(models)
    if not first or any(first.startswith(SAMPLED) != one.startswith(SAMPLED) for one in teachers):
        return "teacher consistency: not known (the student's own run does not say who wrote what it was trained on)"
    if all(one == first for one in teachers):
        return "teacher consistency: the same teacher wrote what the student was fine-tuned on"
    return (
        "warning: teacher consistency: the student was fine-tuned on responses of another model than this teacher, "
        "which leaves a bias (arXiv 2604.13010)"
    )


def _fingerprints(models: Models) -> Sequence[str]:
    if models.caches:
        return [cache.meta.teacher for cache in models.caches]
    return [] if models.teacher is None else [models.teacher.fingerprint()]


def _taught_by(student: str) -> str:
    """Fingerprint of the model whose responses the student's run was trained on; empty if it is not known."""
    try:
        place = locate(student).directory.parent / "manifest.json"
        facts = Manifest.parse(read_json(place), str(place)).facts
    except (OSError, DataError, ModelError):
        return ""
    return facts.written_by or facts.models.get("teacher", "")
