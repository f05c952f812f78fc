"""Targets from a teacher behind a server, asked for ahead of the training and written into a cache as it goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from thack.cache.capture.preparation import prepare_directory
from thack.cache.served.growing import GrowingCache
from thack.cache.served.preparation import prepare_served
from thack.config import CacheSettings, DistillSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import UsageError
from thack.models.batch import Batch
from thack.runtime.progress import Progress
from thack.runtime.ranks import Rank
from thack.serving.client import Client
from thack.targets.crop import crop
from thack.targets.types import Target
from thack.training.data import total_lengths
from thack.training.matching import check_same_tokenizer
from thack.training.models import Models

DIRECTORY = "cache"  # in the run's directory


class ServedTargets:
    """Given responses, scored by a server; each once, however many epochs there are."""

    keeps_responses = False
    generated_tokens = 0

    def __init__(self, data: Sequence[TokenSequence], cache: GrowingCache, width: int, fingerprint: str) -> None:
        """`fingerprint` is of the plan of the cache that is written."""
        self.data = data
        self.lengths = total_lengths(data)
        self.fingerprint = fingerprint
        self.teacher_tokens = 0
        self._cache, self._width = cache, width

    def __len__(self) -> int:
        return len(self.data)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return [replace(self.data[i], position=int(i)) for i in positions]

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        """Begin to ask for them, many at a time; () ends that, and the connection."""
        expected = list(chain.from_iterable(batches))
        if expected:
            self._cache.ask_ahead(expected)
        else:
            self._cache.close()

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> Target:
        before = self._cache.num_tokens
        target = self._cache.targets(sequences)
        self.teacher_tokens += self._cache.num_tokens - before
        return crop(target.to(batch.device), self._width)


def served_targets(
    settings: DistillSettings, models: Models, data: Sequence[TokenSequence], ranks: int, progress: Progress
) -> ServedTargets:
    """Connect to the server, and open the cache that the run writes, or resume it.

    Raises:
        UsageError: several ranks, or a server that does not score given responses.
        MismatchError: its tokenizer is not the student's, or it runs another teacher than before.
    """
    if ranks > 1:
        raise UsageError(
            f"{ranks} ranks do not share one connection to a server",
            hint="capture with thack cache-logits and `server.url`, whose ranks share the work; then set `cache`",
        )
    tokenizer = models.student.tokenizer
    if settings.server.tokenizer:
        given = Tokenizer.load(Path(settings.server.tokenizer))
        check_same_tokenizer("server", given.fingerprint(), models.student)
    capture = CacheSettings(
        out=Path(settings.out).expanduser() / DIRECTORY,
        server=settings.server,
        data=settings.data,
        top_k=settings.target.k,
        seed=settings.seed,
    )
    client = Client(settings.server)
    try:
        prepare_directory(capture.out)
        job = prepare_served(capture, client, progress, tokenizer=tokenizer, sequences=data, rank=Rank())
        return ServedTargets(data, GrowingCache(job, progress), models.width, job.plan.fingerprint)
    except BaseException:
        client.close()
        raise
