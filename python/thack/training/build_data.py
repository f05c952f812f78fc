"""From settings and models to the `TrainingData` of a distillation: a cache's, or a live teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from thack.cache import Cache
from thack.config import DistillSettings
from thack.config.specs import mixes_caches, policy_gradient, target_spec
from thack.data.lengths import response_limit
from thack.data.sequence import TokenSequence
from thack.data.spool import spool
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.errors import CacheError, MismatchError, UsageError
from thack.generation.accepted import Accepts
from thack.generation.sampler import GenerationRequest
from thack.generation.sources import Mixture, Offline, Online, ResponseSource
from thack.models.precision import Precision
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import Progress
from thack.targets.frozen_head import FrozenHead
from thack.training.alignment import check_alignment, check_coverage
from thack.training.behaviour import keeps_log_probs
from thack.training.data import CachedTargets, LiveTargets, PairedData, SupervisedCache, TrainingData
from thack.training.ends import check_cache_end
from thack.training.guard import Guard
from thack.training.guarded_data import GuardedData
from thack.training.live import LiveTeacher
from thack.training.matching import stored_by
from thack.training.models import Models
from thack.training.prompts import PromptWeights, cached_hashes, read_weights
from thack.training.served import ServedTargets, served_targets
from thack.training.several import MixedCaches, RoutedCaches, first_of_each
from thack.training.sharding import WrappedModel

_FEW_DRAWS = 64  # sampled ids per token: fewer are noise that a student memorises over epochs


def build_data(
    settings: DistillSettings,
    models: Models,
    teacher: WrappedModel | None,
    precision: Precision,
    group: ProcessGroup,
    progress: Progress,
    *,
    accepts: Accepts | None = None,
) -> CachedTargets | LiveTargets | ServedTargets:
    """What to train on, in the teacher's ids. `teacher` is the live one, `precision` the student's.

    `accepts`: whether a response that the teacher samples can be used.
    """
    if models.caches:
        _check_caches(settings, models, progress)
        return _cached_targets(settings, models)
    data = _read(settings, models, progress)
    if settings.server.url:
        return served_targets(settings, models, data, group.world_size, progress)
    assert teacher is not None
    offline = settings.source.kind == "offline"
    source = _source(settings, models, data, precision, group, progress, accepts)
    projects = settings.loss.fused is False or "teacher" not in models.plain_heads
    live = _live_teacher(settings, models, teacher, examples=data if offline else [], projects=projects)
    return LiveTargets(source, data, live, keeps_responses=not offline)


def supervised_data(settings: DistillSettings, models: Models, progress: Progress) -> PairedData | SupervisedCache:
    """The responses of an offline distillation, in its order, without any teacher's distributions."""
    if models.caches:
        return SupervisedCache(_cached_targets(settings, models).cache)
    return PairedData(_read(settings, models, progress))


def guarded(
    data: TrainingData,
    guard: Guard,
    settings: DistillSettings,
    models: Models,
    teacher: WrappedModel | None,
    accepts: Accepts | None,
    progress: Progress,
) -> GuardedData:
    """`data`, with what the guard can add to it: responses of the teacher that `accepts`."""
    assert models.teacher is not None and teacher is not None
    examples = data.sequences(np.arange(min(len(data), 256)), 0)
    live = _live_teacher(settings, models, teacher, examples=examples)
    request = response_request(settings, models.precision)
    return GuardedData(data, guard, models.teacher, request, live, accepts, progress)


def response_request(settings: DistillSettings, precision: Precision) -> GenerationRequest:
    """How a run samples responses to train on."""
    return GenerationRequest(
        sampling=settings.source.sampling,
        max_new_tokens=response_limit(settings.data),
        seed=settings.seed,
        precision=precision,
    )


def _cache_weights(settings: DistillSettings, caches: Sequence[Cache]) -> PromptWeights | None:
    """With which weights caches are mixed; None where they are not.

    Raises:
        DataError: the column that `cache_weight_key` names holds something else, or a prompt has no weights.
    """
    if not mixes_caches(settings):
        return None
    key = settings.cache_weight_key
    weights = PromptWeights(settings.cache_weights, read_weights(settings.data, key, len(caches)) if key else {})
    weights.check_given(cached_hashes(caches[0]))
    return weights


def _cached_targets(settings: DistillSettings, models: Models) -> CachedTargets:
    caches, width = models.caches, models.teacher_width
    weights = _cache_weights(settings, caches)
    if weights is not None:
        return CachedTargets(MixedCaches(caches, width, weights), width, weights.fingerprint)
    if len(caches) > 1:
        return CachedTargets(RoutedCaches(caches, width, first_of_each(caches, settings.cache_overlap)), width)
    return CachedTargets(caches[0], width)


def monitored(data: TrainingData, models: Models) -> TrainingData:
    """The part of `data` whose targets are those of the live teacher: of several caches, the teacher's own."""
    if not isinstance(data, CachedTargets) or not isinstance(data.cache, RoutedCaches) or models.teacher is None:
        return data
    return CachedTargets(data.cache.part(stored_by(models.caches, models.teacher)), models.width)


def _check_caches(settings: DistillSettings, models: Models, progress: Progress) -> None:
    for cache in models.caches:
        name = f"{cache.directory}: " if len(models.caches) > 1 else ""
        with _named(name):
            notes = _examined(settings, models, cache)
        for note in notes:
            progress.note(note.replace("warning: ", f"warning: {name}", 1))
    if settings.data.path:
        stream = DataStream(settings.data, _reader(models), need_response=False, progress=progress)
        check_coverage(models.caches, (s for chunk in stream for s in chunk.sequences))


def _examined(settings: DistillSettings, models: Models, cache: Cache) -> list[str]:
    """What a user should know of one cache; raises what its kind of fault is."""
    if settings.guard.on and settings.guard.policy != "stop" and cache.plan.teacher_prompts:
        raise UsageError(
            f"guard.policy = {settings.guard.policy} needs new responses of the teacher, which read prompts of its own",
            details=("a cache holds the student's prompts alone",),
            hint="set `guard.policy = stop`, or train from a live `teacher` with the data",
        )
    skipped = check_alignment(cache, refuse=settings.check_alignment)
    notes = [skipped] if skipped else []
    reader = models.student.tokenizer if models.foreign is None else models.foreign.tokenizer
    notes += [f"warning: {warning}" for warning in check_cache_end(cache, reader)]
    if cache.meta.kind == "sampled" and settings.epochs > 1 and cache.meta.k < _FEW_DRAWS:
        notes.append(
            f"warning: {settings.epochs} epochs over {cache.meta.k} sampled ids per token: the student will "
            f"memorise their noise; cache top-k, or {_FEW_DRAWS} sampled ids and more"
        )
    return notes


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of a cache before what is wrong with it."""
    try:
        yield
    except (CacheError, MismatchError) as error:
        raise type(error)(f"{name}{error.message}", details=error.details, hint=error.hint) from error


def _read(settings: DistillSettings, models: Models, progress: Progress) -> Sequence[TokenSequence]:
    """The data set: prompts by position, with responses where the source uses them."""
    given = settings.source.kind in ("offline", "mixture")
    stream = DataStream(settings.data, _reader(models), need_response=given, progress=progress)
    found = spool(stream, settings.out)
    for line in stream.report.lines():
        progress.note(line)
    return found


def reading_tokenizer(student: Tokenizer, teacher: Tokenizer | None) -> Tokenizer:
    """The tokenizer that encodes the data: the student's; the teacher's where the student has no chat template."""
    return student if teacher is None or student.template() is not None else teacher


def _reader(models: Models) -> Tokenizer:
    if models.foreign is not None:
        return models.foreign.tokenizer
    return reading_tokenizer(models.student.tokenizer, None if models.teacher is None else models.teacher.tokenizer)


def _source(
    settings: DistillSettings,
    models: Models,
    data: Sequence[TokenSequence],
    precision: Precision,
    group: ProcessGroup,
    progress: Progress,
    accepts: Accepts | None,
) -> ResponseSource:
    """Who writes the responses. `precision` is the student's."""
    source = settings.source
    if source.kind == "offline":
        return Offline(data)
    by_student = source.kind == "online-student" or (source.kind == "mixture" and source.online_by == "student")
    writer = models.student if by_student else models.teacher
    assert writer is not None
    request = response_request(settings, precision if by_student else models.precision)
    policy = settings.loss.policy
    keeps = policy.weight and keeps_log_probs(policy_gradient(settings.loss), source.refresh_steps)
    online = Online(
        writer,
        data,
        replace(request, batch_size=source.batch_size),
        group=group,
        progress=progress,
        scored_width=models.width if keeps else 0,
        by_teacher=not by_student,
        accepts=accepts,
    )
    if source.kind == "mixture":
        return Mixture(Offline(data), online, fraction=source.online_fraction, seed=settings.seed)
    return online


def _live_teacher(
    settings: DistillSettings,
    models: Models,
    teacher: WrappedModel,
    *,
    examples: Sequence[TokenSequence],
    projects: bool = True,
) -> LiveTeacher:
    head = FrozenHead.of(models.student, models.width) if settings.target.kind == "projected" else None
    spec = target_spec(settings.target, 1 if head is None else head.weight_VH.shape[1])
    return LiveTeacher(
        teacher.model,
        models.teacher_width,
        spec,
        seed=settings.seed,
        examples=examples,
        projects=projects,
        precision=models.precision,
        head=head,
    )
