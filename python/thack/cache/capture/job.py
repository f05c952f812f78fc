"""`thack cache-logits` below the command line: plan, score, pack, commit; again after any crash.

The teacher works in this thread; selection happens on its device; what it selects is copied off, packed by
Rust, written and committed by a thread of its own, behind a queue of two batches. A failure there stops the
job with its cause. Ranks, or tasks of an array, take the shards whose number leaves their rank; whoever sees that
all are there writes the manifest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from thack import _native, _version
from thack.cache.capture.score import Scorer
from thack.cache.format.layout import RecordLayout
from thack.cache.format.manifest import NAME as MANIFEST
from thack.cache.format.manifest import finish, missing, shard_is_good
from thack.cache.format.plan import NAME as PLAN
from thack.cache.format.plan import SHARDS, Plan, adopt, partition, read_plan, shard_path
from thack.config import CacheSettings, to_dict
from thack.config.specs import target_spec
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.errors import CacheError, ThackError, UsageError
from thack.files import canonical_json, claim_output, digest
from thack.models.checkpoint import SAMPLED
from thack.runtime.preemption import StopFlag
from thack.runtime.progress import SILENT, Progress, Task
from thack.runtime.ranks import Rank, current_rank
from thack.runtime.runlog import RunLog
from thack.runtime.status import recorded

if TYPE_CHECKING:
    from thack.cache.capture.packer import Packer
    from thack.models.protocol import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that is fixed before the first shard."""

    directory: Path
    settings: CacheSettings
    teacher: LanguageModel
    sequences: Sequence[TokenSequence]  # by number in the cache; without responses under `generate`
    plan: Plan
    rank: Rank


def capture(
    settings: CacheSettings,
    progress: Progress = SILENT,
    *,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
    rank: Rank | None = None,
) -> Path:
    """Make the cache that `settings` describe, or go on with it; returns its directory.

    `teacher` and `sequences` stand in for `settings.teacher` and `settings.data` where they are at hand.
    """
    directory = Path(settings.out).expanduser()
    _check(settings, teacher is not None)
    claim_directory(directory)
    with recorded(directory, "cache"):
        _capture(prepare_job(settings, teacher=teacher, sequences=sequences, rank=rank, progress=progress), progress)
    return directory


def _capture(job: Job, progress: Progress) -> None:
    _check_space(job)
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(job.plan.threads)
    try:
        _make_shards(job, progress)
    finally:
        torch.set_num_threads(threads)
    manifest = finish(job.directory, job.plan)
    if manifest is not None:
        progress.note(
            f"cache: {manifest.sequences:,} sequences, {manifest.tokens:,} tokens, "
            f"{manifest.bytes / 1e6:,.1f} MB in {job.plan.num_shards} shards"
        )


def prepare_job(
    settings: CacheSettings,
    *,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
    rank: Rank | None = None,
    progress: Progress = SILENT,
) -> Job:
    """Read the data, load the teacher, and agree on the plan."""
    teacher = teacher or load_teacher(settings)
    if sequences is None:
        sequences = read_data(settings, teacher, progress)
    every = numbered(sequences, settings.samples if settings.generate else 1)
    directory = Path(settings.out).expanduser()
    plan = make_plan(settings, teacher, every, full_hash=_begun_with_full_hash(directory))
    return Job(
        directory=directory,
        settings=settings,
        teacher=teacher,
        sequences=every,
        plan=adopt(directory, plan),
        rank=rank or current_rank(),
    )


def claim_directory(directory: Path) -> None:
    """Make the directory ours and see that it can be written, before the teacher is loaded."""
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
    """True if the cache that is there knows all of its teacher: so does who goes on. None: as settings say."""
    if not (directory / PLAN).is_file():
        return None
    return not read_plan(directory).fingerprints["teacher"].startswith(SAMPLED) or None


def make_plan(
    settings: CacheSettings,
    teacher: LanguageModel,
    sequences: Sequence[TokenSequence],
    *,
    full_hash: bool | None = None,
) -> Plan:
    """The plan for these sequences and this teacher: the same from every rank."""
    from thack.models.precision import inference_precision
    from thack.runtime.threads import threads

    if not sequences:
        raise UsageError(
            "the data holds no sequence to cache", hint="check `data.path`, `data.limit` and `data.max_prompt_tokens`"
        )
    layout = RecordLayout(spec=target_spec(settings), vocab_size=teacher.vocab_size)
    bound = settings.data.max_response_tokens if settings.generate else 0
    return Plan(
        layout=layout,
        fingerprints={
            "teacher": teacher.fingerprint(full=full_hash),
            "tokenizer": teacher.tokenizer.fingerprint(),
            "data": data_fingerprint(sequences),
            "settings": settings_fingerprint(settings),
        },
        firsts=partition(sequences, layout.stride, settings, bound),
        batch_size=settings.batch_size,
        seed=settings.seed,
        samples=settings.samples if settings.generate else 1,
        device=teacher.device.type,
        dtype=inference_precision(teacher, settings.dtype).name,
        threads=threads(),
        build=_version.__version__,
    )


def settings_fingerprint(settings: CacheSettings) -> str:
    """Of the settings that change what is stored; not of paths, nor of what the plan itself records."""
    kept = ["generate", "shard_tokens", "shard_bytes", "dtype"] + (["sampling"] if settings.generate else [])
    chosen = {key: value for key, value in to_dict(settings).items() if key in kept}
    if settings.generate:
        chosen["max_response_tokens"] = settings.data.max_response_tokens
    return digest(canonical_json(chosen))


def _check(settings: CacheSettings, has_teacher: bool) -> None:
    if not settings.teacher and not has_teacher:
        raise UsageError("no teacher is given", hint="set `teacher` to its directory")
    if settings.samples > 1 and not settings.generate:
        raise UsageError(
            f"samples = {settings.samples} needs generate = true",
            hint="several responses per prompt are written here, or come with the data",
        )
    low = [name for name in ("batch_size", "shard_tokens", "shard_bytes", "samples") if getattr(settings, name) < 1]
    if low:
        raise UsageError(f"{low[0]} = {getattr(settings, low[0])}: must be at least 1")


def load_teacher(settings: CacheSettings) -> LanguageModel:
    from thack.models.load import load_model
    from thack.runtime.device import choose_device

    return load_model(settings.teacher, role="teacher", device=choose_device(settings.device), options=settings.load)


def read_data(settings: CacheSettings, teacher: LanguageModel, progress: Progress) -> Sequence[TokenSequence]:
    from thack.data.encode import prepare

    prepared = prepare(settings.data, teacher.tokenizer, need_response=not settings.generate)
    progress.note(str(prepared.report))
    return prepared.sequences


def numbered(sequences: Sequence[TokenSequence], samples: int) -> list[TokenSequence]:
    """One entry per sequence of the cache: each prompt `samples` times, its samples side by side."""
    if samples == 1:
        return list(sequences)
    return [replace(s, sample=sample) for s in sequences for sample in range(samples)]


def _check_space(job: Job) -> None:
    """Refuse to begin what cannot end: only where the size is known beforehand."""
    if job.settings.generate or (job.directory / MANIFEST).exists():
        return
    needed = _size(job, (n for n in range(job.plan.num_shards) if not shard_path(job.directory, n).exists()))
    free = shutil.disk_usage(job.directory).free
    if needed > free:
        raise ThackError(
            f"no space: {job.directory} needs {_gigabytes(needed)} more, {_gigabytes(free)} are free",
            hint="free space, give another `out`, or keep less of each distribution (thack cache probe)",
        )


def _make_shards(job: Job, progress: Progress) -> None:
    from thack.cache.capture.packer import Packer

    numbers = [n for n in range(job.plan.num_shards) if n % job.rank.world_size == job.rank.rank]
    wanted = [n for n in numbers if not shard_is_good(job.directory, job.plan, n)]
    if len(wanted) < len(numbers):
        progress.note(f"cache: {len(numbers) - len(wanted)} of {len(numbers)} shards are there already")
    if not wanted:
        return
    journal = job.directory / "journal" / f"rank-{job.rank.rank:05d}.jsonl"
    total = sum(len(job.plan.shard(n)) for n in wanted)
    scorer = Scorer(job.teacher, job.plan, job.settings)
    with (
        _explained(job),
        StopFlag() as stop,
        RunLog(journal) as log,
        progress.task("cache", total, "sequences") as task,
        Packer(job.directory, job.plan, log.append) as packer,
    ):
        for number in wanted:
            _make_shard(job, scorer, packer, number, stop, task, progress)


def _make_shard(
    job: Job, scorer: Scorer, packer: Packer, number: int, stop: StopFlag, task: Task, progress: Progress
) -> None:
    sequences = [(i, job.sequences[i]) for i in job.plan.shard(number)]
    if job.settings.generate:
        sequences = scorer.write_responses(sequences, progress)
    packer.begin(number)
    for batch in scorer.batches(sequences):
        if stop.requested:
            raise stop.error(f"the finished shards in {job.directory}; shard {number} was open")
        packer.put(batch, scorer.score(batch))
        task.advance(len(batch))
    packer.end()


@contextmanager
def _explained(job: Job) -> Iterator[None]:
    """Say how far a job came whose disk is full, and what it still needs."""
    try:
        yield
    except CacheError as error:
        if not any(words in error.message for words in ("no space left", "quota exceeded")):
            raise
        lacking = list(missing(job.directory, job.plan))
        done = job.plan.num_shards - len(lacking)
        needed = "" if job.settings.generate else f"; the rest needs {_gigabytes(_size(job, lacking))}"
        raise CacheError(
            f"no space left after {done} of {job.plan.num_shards} shards{needed}",
            details=[error.message],
            hint=error.hint,
        ) from error


def _size(job: Job, shards: Iterable[int]) -> int:
    """Bytes of shards whose responses are known."""
    stride = job.plan.layout.stride
    return sum(
        len(job.sequences[i].response_ids) * (stride + 4) + 4 * len(job.sequences[i].prompt_ids)
        for shard in shards
        for i in job.plan.shard(shard)
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
