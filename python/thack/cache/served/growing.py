"""A cache that a training run writes as it goes: what a server has answered once is never asked for again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from thack.cache.format.manifest import finish, shard_is_good
from thack.cache.format.reader import Cache
from thack.cache.format.records import decode
from thack.cache.served.answer_log import AnswerLog
from thack.cache.served.job import CONFIRM_AFTER, add_answer, commit, confirm, survey_of
from thack.cache.served.preparation import ServedJob
from thack.data.sequence import TokenSequence, cache_positions
from thack.runtime.progress import Progress
from thack.serving.answers import Choice
from thack.targets.types import Target


class GrowingCache:
    """Targets of a served teacher by position: from the cache where they are in it, else from the server.

    Args:
        job: scores given responses.
        progress: told once the cache is complete.
    """

    def __init__(self, job: ServedJob, progress: Progress) -> None:
        self._job, self._progress = job, progress
        self._pool = ThreadPoolExecutor(job.settings.server.concurrency, thread_name_prefix="thack-ask")
        self._asked: dict[int, Future[Choice]] = {}
        self._cache = self._open()
        self._path = job.directory / "answers" / "training.log"
        self._log = None if self._cache else AnswerLog(self._path, job.plan.layout.stride)
        self._survey = None if self._log is None else survey_of(job, self._log, range(len(job.data)))
        self.num_tokens = 0  # response tokens that were asked for now

    def ask_ahead(self, sequences: Iterable[TokenSequence]) -> None:
        """Begin to ask for what is in no cache yet, in this order."""
        for sequence in sequences:
            self._ask(sequence)

    def targets(self, sequences: Sequence[TokenSequence]) -> Target:
        """The target of these sequences, one after the other, on the CPU.

        Raises:
            MismatchError: the server runs another teacher than before.
            DataError: its answers cannot be used.
            ServerError: it gives none.
        """
        positions = cache_positions(sequences)
        if self._cache is None:
            self._collect(sequences)
        if self._cache is not None:
            return self._cache.targets(positions)[1]
        assert self._log is not None
        answers = [self._log.get(position) for position in positions]
        records = bytearray().join(records for _, _, records in answers)
        return decode(
            records, self._job.plan.layout, bytearray(np.concatenate([own for _, own, _ in answers]).tobytes())
        )

    def close(self) -> None:
        """Ask for nothing more; keep what was paid for."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        try:
            if self._log is not None:
                self._keep_answered()
        finally:
            self._job.teacher.client.close()
            if self._log is not None:
                self._log.close()

    def _open(self) -> Cache | None:
        job = self._job
        if all(shard_is_good(job.directory, job.plan, number) for number in range(job.plan.num_shards)):
            finish(job.directory, job.plan)
            return Cache.open(job.directory)
        return None

    def _ask(self, sequence: TokenSequence) -> Future[Choice] | None:
        position = sequence.position
        assert position is not None
        if self._log is None or position in self._log:
            return None
        if position not in self._asked:
            self._asked[position] = self._pool.submit(self._job.teacher.score, sequence)
        return self._asked[position]

    def _collect(self, sequences: Sequence[TokenSequence]) -> None:
        """Wait for the answers to these sequences."""
        for sequence in sequences:
            self._ask(sequence)
        for sequence in sequences:
            assert sequence.position is not None
            future = self._asked.pop(sequence.position, None)
            if future is not None:
                self._add(sequence, future.result())
        assert self._log is not None
        if len(self._log) == len(self._job.data):
            self._complete()

    def _add(self, sequence: TokenSequence, choice: Choice) -> None:
        assert self._log is not None and self._survey is not None
        add_answer(self._job, sequence, choice, self._log, self._survey)
        self.num_tokens += len(choice.response)
        if self._log.unconfirmed >= CONFIRM_AFTER:
            self._confirm()

    def _confirm(self) -> None:
        assert self._log is not None and self._survey is not None
        confirm(self._job, self._log, self._survey)

    def _keep_answered(self) -> None:
        for position, future in sorted(self._asked.items()):
            if future.done() and not future.cancelled() and future.exception() is None:
                (sequence,) = self._job.data.read([position])
                self._add(sequence, future.result())
        self._asked.clear()
        self._confirm()

    def _complete(self) -> None:
        """Every sequence is answered: write the shards, and read from them from now on."""
        job = self._job
        assert self._log is not None
        self._confirm()
        for number in range(job.plan.num_shards):
            commit(job, number, self._log)
        finish(job.directory, job.plan)
        self._log.close()
        self._path.unlink()
        self._log, self._cache = None, Cache.open(job.directory)
        self._progress.note(f"cache: complete in {job.directory}; train from it with `cache`")
