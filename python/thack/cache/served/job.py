"""`thack cache-logits --server`: a teacher behind a server answers, and records of its answers go into shards.

Requests are many at a time and come back in any order. Every answer goes into the answer log at once. A shard is
written, in the plan's order, when the log has all of its sequences, they can be a teacher's raw rows as a whole, and
the server was seen to run the same teacher after the last of them. So the cache depends on the answers alone, not on
their order, and a job that was stopped asks only for what is in no log. Ranks share the shards as in a capture.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from thack import _native
from thack.cache.capture.preparation import prepare_directory
from thack.cache.capture.shards import committed, finish_cache, wanted_shards
from thack.cache.exchange.packing import pack, realised, unpack
from thack.cache.exchange.source_row import SourceRow
from thack.cache.exchange.survey import Survey
from thack.cache.format.manifest import NAME as MANIFEST
from thack.cache.format.plan import JOURNAL, shard_path
from thack.cache.served.answer_log import AnswerLog
from thack.cache.served.preparation import ServedJob, prepare_served
from thack.config import CacheSettings
from thack.data.lengths import response_limit
from thack.data.sequence import TokenSequence
from thack.errors import DataError, MismatchError, ServerError
from thack.runtime.lock import locked
from thack.runtime.preemption import StopFlag
from thack.runtime.progress import SILENT, Progress, Task
from thack.runtime.ranks import Rank, current_rank
from thack.runtime.runlog import RunLog
from thack.runtime.status import recorded
from thack.schema.cache import CommittedShard
from thack.serving.answers import Choice, Entry
from thack.serving.client import Client
from thack.serving.concurrent import as_they_come
from thack.serving.identity import ask_probes, check_same

CONFIRM_AFTER = 128  # answers that are asked for again, at most, if a job is killed


def capture_served(
    settings: CacheSettings,
    progress: Progress = SILENT,
    *,
    sequences: Sequence[TokenSequence] | None = None,
    rank: Rank | None = None,
) -> Path:
    """Write the cache that `settings` describe from the answers of `settings.server`, or resume it.

    Args:
        settings: of the cache; the same ones resume it.
        progress: counts sequences.
        sequences: used instead of `settings.data`; without responses if `settings.generate`.
        rank: of this process among those that share the shards; by default from the environment.

    Returns:
        The directory of the cache. It is complete once every rank has returned.

    Raises:
        UsageError: what the server does not give is asked for, or `out` holds something else.
        MismatchError: the server runs another teacher than before, or has another tokenizer; `out` is another cache.
        DataError: the server's answers to a prompt cannot be used.
        ServerError: the server gives no answer.
    """
    directory = Path(settings.out).expanduser()
    with Client(settings.server) as client:
        rank = rank or current_rank()
        with locked(directory, progress, part=rank.part, patience_s=rank.patience_s):  # ranks share the cache
            prepare_directory(directory)
            with recorded(directory, "cache", complete=lambda: (directory / MANIFEST).exists()):
                job = prepare_served(settings, client, progress, sequences=sequences, rank=rank)
                _write_shards(job, progress)
                _report(job, progress)
    return directory


def _report(job: ServedJob, progress: Progress) -> None:
    for count, what in (
        (job.teacher.client.repeated, "requests were repeated after 429, 5xx or a lost connection"),
        (job.teacher.unusable, "answers could not be used and were asked for again"),
    ):
        if count:
            progress.note(f"warning: {count:,} {what}")
    finish_cache(job.directory, job.plan, progress, generated=job.settings.generate)


def _write_shards(job: ServedJob, progress: Progress) -> None:
    wanted = wanted_shards(job.directory, job.plan, job.rank, progress)
    if not wanted:
        return
    name = f"rank-{job.rank.rank:05d}"
    with (
        StopFlag() as stop,
        RunLog(job.directory / JOURNAL / f"{name}.jsonl") as journal,
        AnswerLog(job.directory / "answers" / f"{name}.log", job.plan.layout.stride) as log,
        progress.task("cache", sum(len(job.plan.shard(n)) for n in wanted), "sequences") as task,
    ):
        if log.dropped:
            progress.note(
                f"cache: {log.dropped} answers are asked for again: the job was killed before they were confirmed"
            )
        for number in wanted:
            _fill(job, number, log, stop, task)
            journal.append(commit(job, number, log).dump())
            log.clear()
    (job.directory / "answers" / f"{name}.log").unlink()


def _fill(job: ServedJob, number: int, log: AnswerLog, stop: StopFlag, task: Task) -> None:
    """Ask for every sequence of a shard that the log has no answer to."""
    positions = job.plan.shard(number)
    lacking = [position for position in positions if position not in log]
    task.advance(len(positions) - len(lacking))
    survey = survey_of(job, log, positions)
    asked = _until(job.data.read(lacking), stop)
    try:
        for sequence, choice in as_they_come(asked, lambda s: _answer(job, s), job.settings.server.concurrency):
            add_answer(job, sequence, choice, log, survey)
            task.advance(1)
            if log.unconfirmed >= CONFIRM_AFTER:
                confirm(job, log, survey)
    except ServerError:  # the server is gone, and cannot be asked which teacher it runs
        raise
    except BaseException:
        confirm(job, log, survey)
        raise
    confirm(job, log, survey)
    if stop.requested:
        raise stop.error(f"the finished shards in {job.directory}, and {len(log)} answers of shard {number}")


def _until(sequences: Sequence[TokenSequence], stop: StopFlag) -> Iterator[TokenSequence]:
    for sequence in sequences:
        if stop.requested:
            return
        yield sequence


def _answer(job: ServedJob, sequence: TokenSequence) -> Choice:
    if not job.settings.generate:
        return job.teacher.score(sequence)
    settings = job.settings
    return job.teacher.respond(sequence, settings.sampling, response_limit(settings.data), settings.seed)


def survey_of(job: ServedJob, log: AnswerLog, positions: Iterable[int]) -> Survey:
    """Counts of answers, that are compared as a whole. They begin with those that the log has to these positions.

    So what is refused is refused however often the job was stopped and resumed meanwhile.
    """
    survey = Survey(job.settings.server.logprobs, job.plan.layout.vocab_size, setting="server.logprobs")
    for sequence in job.data.read([position for position in positions if position in log]):
        assert sequence.position is not None
        response_ids, _, records = log.get(sequence.position)
        survey.count(_row(sequence, response_ids, unpack(records, job.plan.layout)))
    return survey


def _row(sequence: TokenSequence, response_ids: np.ndarray, entries: list[Entry]) -> SourceRow:
    answered = replace(sequence, response_ids=response_ids)
    return SourceRow(answered, entries, f"prompt {sequence.prompt_id}")


def add_answer(job: ServedJob, sequence: TokenSequence, choice: Choice, log: AnswerLog, survey: Survey) -> None:
    """Check an answer and put it into the log, as records."""
    row = replace(_row(sequence, choice.response.astype("int32"), choice.entries), given=choice.realised)
    survey.add(row, job.settings.server.url)
    assert sequence.position is not None
    records = pack(row.entries, job.plan.layout, row.place)
    log.add(sequence.position, row.sequence.response_ids, realised(row), records)


def confirm(job: ServedJob, log: AnswerLog, survey: Survey) -> None:
    """Keep what the server answered if, as a whole, it can be a teacher's, and this one's; else forget it and refuse.

    Raises:
        DataError: the answers are shifted, stale or were processed.
        MismatchError: the server runs another teacher.
    """
    server = job.settings.server
    try:
        survey.check(server.url)
        if log.unconfirmed:
            check_same(job.identity, ask_probes(job.teacher, server.concurrency), server.tolerance, str(job.directory))
    except (DataError, MismatchError) as error:
        details = [*error.details, f"its last {log.drop_unconfirmed()} answers were dropped"]
        raise type(error)(error.message, details=details, hint=error.hint) from error
    log.confirm()


def commit(job: ServedJob, number: int, log: AnswerLog) -> CommittedShard:
    """Write a shard from the answers in the log, in the plan's order."""
    started = time.perf_counter()
    writer = _native.ShardWriter(shard_path(job.directory, number), job.plan.metadata(number))
    try:
        for s in job.data.read(job.plan.shard(number)):
            assert s.position is not None
            response_ids, of_tokens, records = log.get(s.position)
            writer.records(records)
            writer.sequence((s.position, s.example, s.sample), s.prompt_id, s.prompt_ids, response_ids, of_tokens)
        return committed(number, writer, started)
    except BaseException:
        writer.abandon()
        raise
