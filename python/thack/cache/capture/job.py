"""`thack cache-logits` below the command line: plan, score, pack and commit, and resume after any crash.

The teacher runs in this thread, and targets are selected on its device. A second thread packs what was selected,
writes it and commits it, at most two batches behind. An error there stops the job with its cause. Ranks, or tasks of a
job array, share the shards: rank r of n writes those whose number leaves r modulo n. The first process that sees that
all shards are complete writes the manifest.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from thack.cache.capture.packer import Packer
from thack.cache.capture.preparation import CaptureJob, prepare_directory, prepare_job
from thack.cache.capture.scorer import Scorer
from thack.cache.capture.shards import finish_cache, wanted_shards
from thack.cache.format.manifest import NAME as MANIFEST
from thack.cache.format.manifest import missing
from thack.cache.format.plan import JOURNAL, shard_path
from thack.config import CacheSettings
from thack.data.sequence import TokenSequence
from thack.errors import CacheError, ThackError
from thack.models.protocol import LanguageModel
from thack.runtime.lock import locked
from thack.runtime.preemption import StopFlag, StopRequest
from thack.runtime.progress import SILENT, Progress, Task
from thack.runtime.ranks import Rank, current_rank
from thack.runtime.runlog import RunLog
from thack.runtime.status import recorded


def capture(
    settings: CacheSettings,
    progress: Progress = SILENT,
    *,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
    rank: Rank | None = None,
) -> Path:
    """Write the cache that `settings` describe, or resume it.

    Args:
        settings: of the cache; the same ones resume it.
        progress: counts sequences.
        teacher: used instead of `settings.teacher`.
        sequences: used instead of `settings.data`; without responses if `settings.generate`.
        rank: of this process among those that share the shards; by default from the environment.

    Returns:
        The directory of the cache. It is complete once every rank has returned.

    Raises:
        UsageError: `out` holds something else.
        MismatchError: `out` holds another cache.
        ModelError: the teacher gives NaN or infinite logits, or a response has ids that it does not know.
        ThackError: the disk is full, or cannot be written; or another start of this rank runs.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from thack.cache.format.reader import Cache
        >>> from thack.config import ArchitectureSettings
        >>> from thack.data.tokenizer import Tokenizer
        >>> from thack.models.load import new_decoder
        >>> tokenizer = Tokenizer.train(["def read(path): read the file"] * 3, 264)
        >>> teacher = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, seed=0)
        >>> ids = tokenizer.encode("read the file")
        >>> data = [TokenSequence(example=0, prompt_id="a", prompt_ids=ids[:2], response_ids=ids[2:])]
        >>> with TemporaryDirectory() as scratch:
        ...     settings = CacheSettings(out=Path(scratch) / "cache", top_k=8)
        ...     cache = Cache.open(capture(settings, teacher=teacher, sequences=data))
        ...     _, target = cache.targets([0])
        >>> target.ids_NK.shape == (len(ids) - 2, 8)
        True
    """
    directory = Path(settings.out).expanduser()
    rank = rank or current_rank()
    with locked(directory, progress, part=rank.part, patience_s=rank.patience_s):  # ranks share the cache
        prepare_directory(directory)
        with recorded(directory, "cache", complete=lambda: (directory / MANIFEST).exists()):
            job = prepare_job(settings, teacher=teacher, sequences=sequences, rank=rank, progress=progress)
            _capture(job, progress)
    return directory


def _capture(job: CaptureJob, progress: Progress) -> None:
    _check_space(job)
    threads = torch.get_num_threads()
    torch.set_num_threads(job.plan.threads)
    try:
        _write_shards(job, progress)
    finally:
        torch.set_num_threads(threads)
    finish_cache(job.directory, job.plan, progress, generated=job.settings.generate)


def _check_space(job: CaptureJob) -> None:
    """Refuse a capture that does not fit on the disk; its size is known unless responses are still to be generated."""
    if job.settings.generate or (job.directory / MANIFEST).exists():
        return
    needed = _size(job, (n for n in range(job.plan.num_shards) if not shard_path(job.directory, n).exists()))
    free = shutil.disk_usage(job.directory).free
    if needed > free:
        raise ThackError(
            f"no space: {job.directory} needs {_gigabytes(needed)} more, {_gigabytes(free)} are free",
            hint="free space, give another `out`, or keep less of each distribution (thack cache probe)",
        )


def _write_shards(job: CaptureJob, progress: Progress) -> None:
    wanted = wanted_shards(job.directory, job.plan, job.rank, progress)
    if not wanted:
        return
    journal = job.directory / JOURNAL / f"{job.rank.part}.jsonl"
    total = sum(len(job.plan.shard(n)) for n in wanted)
    scorer = Scorer(job.teacher, job.plan, job.settings, job.head)
    with (
        _explained(job),
        StopFlag() as stop,
        RunLog(journal) as log,
        progress.task("cache", total, "sequences") as task,
        Packer(job.directory, job.plan, lambda shard: log.append(shard.dump())) as packer,
    ):
        for number in wanted:
            _write_shard(job, scorer, packer, number, stop, task, progress)


def _write_shard(
    job: CaptureJob, scorer: Scorer, packer: Packer, number: int, stop: StopFlag, task: Task, progress: Progress
) -> None:
    sequences = job.data.read(job.plan.shard(number))
    if job.settings.generate:
        sequences = _generated(job, scorer, sequences, stop, progress)
    packer.begin(number)
    for batch in scorer.batches(sequences):
        if stop.requested:
            raise stop.error(f"the finished shards in {job.directory}; shard {number} was open")
        packer.put(batch, scorer.score(batch))
        task.advance(len(batch))
    packer.end()


def _generated(
    job: CaptureJob, scorer: Scorer, sequences: Sequence[TokenSequence], stop: StopFlag, progress: Progress
) -> list[TokenSequence]:
    """The sequences of a shard with the teacher's responses, which take long: a stop ends them at once."""
    try:
        with stop.interruptible():
            return scorer.generate_responses(sequences, progress)
    except (StopRequest, KeyboardInterrupt) as error:
        if stop.requested is None:
            raise
        raise stop.error(f"the finished shards in {job.directory}") from error


@contextmanager
def _explained(job: CaptureJob) -> Iterator[None]:
    """Add to the error of a full disk how much is complete, and what is still needed."""
    try:
        yield
    except CacheError as error:
        if not any(words in error.message for words in ("no space left", "quota exceeded")):
            raise
        lacking = list(missing(job.directory, job.plan))
        done = job.plan.num_shards - len(lacking)
        needed = "" if job.settings.generate else f"; the others need {_gigabytes(_size(job, lacking))}"
        raise CacheError(
            f"no space left after {done} of {job.plan.num_shards} shards{needed}",
            details=[error.message],
            hint=error.hint,
        ) from error


def _size(job: CaptureJob, shards: Iterable[int]) -> int:
    """Bytes of shards whose responses are known."""
    ends = job.plan.firsts[1:]
    bytes_of = np.zeros(job.plan.num_shards, dtype=np.int64)
    first = 0
    for part in job.data.lengths():
        number = np.searchsorted(ends, np.arange(first, first + len(part)), side="right")
        np.add.at(bytes_of, number, part[:, 1] * (job.plan.bytes_per_token + 4) + 4 * part[:, 0])
        first += len(part)
    return sum(int(bytes_of[shard]) for shard in shards)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
