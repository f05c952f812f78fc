"""What is fixed before the first shard of a capture: the directory, the teacher, the data and the plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thack import _native, _version
from thack.cache.capture.data import CaptureData, ListedSequences
from thack.cache.format.ends import write_ends
from thack.cache.format.layout import RecordLayout
from thack.cache.format.partition import ShardLimits, partition
from thack.cache.format.plan import NAME as PLAN
from thack.cache.format.plan import SHARDS, CachePlan, publish_plan, read_plan
from thack.cache.format.tokenizer import write_tokenizer
from thack.cache.format.writer import record_writer
from thack.config import CacheSettings, to_dict
from thack.config.specs import target_spec
from thack.data.date import follow_settings
from thack.data.index import index_data
from thack.data.lengths import response_limit
from thack.data.sequence import TokenSequence
from thack.data.store import longest_response
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError, ThackError, UsageError
from thack.files import canonical_json, claim_output, digest
from thack.models.checkpoint import SAMPLED
from thack.models.load import load_model
from thack.models.precision import inference_precision
from thack.models.protocol import LanguageModel
from thack.runtime.device import choose_device
from thack.runtime.progress import SILENT, Progress
from thack.runtime.ranks import Rank, current_rank
from thack.runtime.threads import threads
from thack.schema.cache import Fingerprints
from thack.targets.frozen_head import FrozenHead
from thack.targets.vocabulary import common_width


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureJob:
    """A capture that is ready to begin.

    Args:
        directory: of the cache.
        settings: of the capture.
        teacher: on its device.
        data: its sequences by position; without responses if the teacher is to generate them.
        plan: the one in the directory.
        rank: this process; it writes every world_size-th shard.
        head: of the student whose head projected targets are of.
    """

    directory: Path
    settings: CacheSettings
    teacher: LanguageModel
    data: CaptureData
    plan: CachePlan
    rank: Rank
    head: FrozenHead | None = None  # of the student, for projected targets


def prepare_job(
    settings: CacheSettings,
    *,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
    rank: Rank | None = None,
    progress: Progress = SILENT,
) -> CaptureJob:
    """Load the teacher, read the data, and publish the plan or reuse the one in the directory."""
    teacher = teacher or load_teacher(settings, progress)
    directory = Path(settings.out).expanduser()
    data = capture_data(settings, teacher.tokenizer, sequences, progress, directory)
    head = frozen_head(settings, teacher, progress)
    plan = make_plan(settings, teacher, data, full_hash=_begun_with_full_hash(directory), head=head)
    return CaptureJob(
        directory=directory,
        settings=settings,
        teacher=teacher,
        data=data,
        plan=begin_cache(settings, plan, teacher.tokenizer, given=sequences is not None),
        rank=rank or current_rank(),
        head=head,
    )


def begin_cache(settings: CacheSettings, plan: CachePlan, tokenizer: Tokenizer, *, given: bool) -> CachePlan:
    """Publish the plan or reuse the one in the directory, then the files that are true of this plan alone.

    So a command that is refused, or is killed before its plan is there, leaves nothing that another one would be
    taken for.

    Args:
        settings: of the capture.
        plan: of it.
        tokenizer: of the teacher.
        given: the caller gave the sequences, so that nothing says who wrote their responses.

    Returns:
        The plan in the directory.

    Raises:
        MismatchError: the directory holds another cache, or says that another model wrote its responses.
    """
    directory = Path(settings.out).expanduser()
    plan = publish_plan(directory, plan)
    write_ends(directory, tokenizer.ends, longest_stored(settings))
    write_tokenizer(directory, tokenizer)
    if settings.generate or not given:
        record_writer(directory, settings, plan.fingerprints.teacher)
    return plan


def frozen_head(settings: CacheSettings, teacher: LanguageModel, progress: Progress = SILENT) -> FrozenHead | None:
    """The head that a projected capture is of, on the teacher's device; None for other kinds.

    Raises:
        MismatchError: the student has another tokenizer, or a narrower vocabulary.
        ModelError: its head is not a plain product.
    """
    if settings.kind != "projected":
        return None
    return student_head(settings, teacher, progress)


def student_head(settings: CacheSettings, teacher: LanguageModel, progress: Progress = SILENT) -> FrozenHead:
    """The head of `settings.student`, on the teacher's device; raises as `frozen_head`."""
    student = load_model(settings.student, role="student", progress=progress)
    if student.tokenizer.fingerprint() != teacher.tokenizer.fingerprint():
        raise MismatchError(
            "the student has another tokenizer than the teacher: its head has no row for the teacher's ids",
            details=(
                f"teacher  {teacher.tokenizer.fingerprint()}",
                f"student  {student.tokenizer.fingerprint()}",
            ),
            hint="use `kind = top-k`, or a student with the teacher's tokenizer",
        )
    return FrozenHead.of(student, _width(teacher)).to(teacher.device)


def prepare_directory(directory: Path) -> None:
    """Mark the directory as a cache and write to it once, before time is spent on loading a teacher."""
    claim_output(directory, "cache")
    try:
        (directory / SHARDS).mkdir(exist_ok=True)
        probe = directory / SHARDS / f".probe.{os.getpid()}{_native.TEMPORARY}"
        try:
            with open(probe, "wb") as file:
                file.write(bytes(1 << 16))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise ThackError(
            f"cannot write into {directory}: {(error.strerror or str(error)).lower()}",
            hint="free space there, change its permissions, or give another `out`",
        ) from error


def _begun_with_full_hash(directory: Path) -> bool | None:
    """True if the plan in the directory has a full hash of its teacher, so that resuming needs one; else None."""
    if not (directory / PLAN).is_file():
        return None
    return not read_plan(directory).fingerprints.teacher.startswith(SAMPLED) or None


def make_plan(
    settings: CacheSettings,
    teacher: LanguageModel,
    data: CaptureData,
    *,
    full_hash: bool | None = None,
    head: FrozenHead | None = None,
) -> CachePlan:
    """The plan for these sequences and this teacher: the same from every rank."""
    head_width = 1 if head is None else head.weight_VH.shape[1]
    return plan_of(
        settings,
        data,
        RecordLayout(spec=target_spec(settings, head_width), vocab_size=_width(teacher)),
        teacher=teacher.fingerprint(full=full_hash),
        tokenizer=teacher.tokenizer.fingerprint(),
        batch_size=settings.batch_size,
        device=teacher.device.type,
        dtype=inference_precision(teacher, settings.dtype).name,
        threads=threads(),
        head="" if head is None else head.fingerprint,
    )


def plan_of(
    settings: CacheSettings,
    data: CaptureData,
    layout: RecordLayout,
    *,
    teacher: str,
    tokenizer: str,
    batch_size: int,
    device: str,
    dtype: str,
    threads: int,
    head: str = "",
) -> CachePlan:
    """The plan of a cache of this data, with the fingerprints of teacher, tokenizer and frozen head.

    Raises:
        UsageError: there is no data.
    """
    if not len(data):
        raise UsageError(
            "the data holds no sequence to cache", hint="check `data.path`, `data.limit` and `data.max_prompt_tokens`"
        )
    longest = response_limit(settings.data) if settings.generate else 0  # responses that are not generated yet
    return CachePlan(
        layout=layout,
        fingerprints=Fingerprints(
            teacher=teacher,
            tokenizer=tokenizer,
            data=data.fingerprint,
            settings=settings_fingerprint(settings),
            head=head,
        ),
        firsts=partition(
            ((prompt, longest or response) for part in data.lengths() for prompt, response in part.tolist()),
            layout.bytes_per_token,
            ShardLimits(tokens=settings.shard_tokens, bytes=settings.shard_bytes),
        ),
        batch_size=batch_size,
        seed=settings.seed,
        samples=settings.samples if settings.generate else 1,
        device=device,
        dtype=dtype,
        threads=threads,
        build=_version.__version__,
        teacher_prompts=data.has_teacher_prompts,
    )


def _width(teacher: LanguageModel) -> int:
    """Ids that are compared. Padded ones are no outcome: a student of the tokenizer's width has no row for them."""
    return common_width(teacher.tokenizer.size, teacher=teacher.vocab_size)


def longest_stored(settings: CacheSettings) -> int:
    """The length at which a response of the cache was cut, here or before."""
    return response_limit(settings.data) if settings.generate else longest_response(settings.data)


def settings_fingerprint(settings: CacheSettings) -> str:
    """Hash of the settings that change what is stored; without paths, and without what the plan itself records."""
    kept = ["generate", "shard_tokens", "shard_bytes", "dtype"] + (["sampling"] if settings.generate else [])
    chosen = {key: value for key, value in to_dict(settings).items() if key in kept}
    if settings.generate:
        chosen["max_response_tokens"] = response_limit(settings.data)
    if settings.hidden_states:
        chosen["hidden_states"] = True  # rounded by an engine: not the bits of a capture
    return digest(canonical_json(chosen))


def load_teacher(settings: CacheSettings, progress: Progress = SILENT) -> LanguageModel:
    """The teacher that the settings name, on its device."""
    device = choose_device(settings.device)
    teacher = load_model(settings.teacher, role="teacher", device=device, options=settings.load, progress=progress)
    follow_settings(teacher, settings.data, Path(settings.out).expanduser())
    return teacher


def capture_data(
    settings: CacheSettings,
    tokenizer: Tokenizer,
    sequences: Sequence[TokenSequence] | None,
    progress: Progress,
    directory: Path | None = None,
) -> CaptureData:
    """The sequences that are scored: those given, or those of the data that the settings name.

    Args:
        settings: of the capture.
        tokenizer: of the teacher; it encodes the data.
        sequences: used instead of the data.
        progress: shows what happens to the data.
        directory: of the cache, where the index of the data is kept; None: no other process needs it.

    Raises:
        DataError: one of `sequences` has no response to score.
    """
    samples = settings.samples if settings.generate else 1
    if sequences is not None:
        empty = next((n for n, s in enumerate(sequences) if not len(s.response_ids)), None)
        if empty is not None and not settings.generate:
            raise DataError(f"sequence {empty} has an empty response", hint="leave it out, or set `generate = true`")
        return CaptureData(ListedSequences(sequences, samples), samples)
    found = index_data(
        settings.data,
        tokenizer,
        need_response=not settings.generate,
        samples=samples,
        directory=directory,
        progress=progress,
    )
    for line in found.footer.lines:
        progress.note(line)
    return CaptureData(found, samples)
