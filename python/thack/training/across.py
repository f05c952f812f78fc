"""What a student with another tokenizer trains on: the teacher's sequences rewritten, and targets across tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from thack.config import DistillSettings
from thack.config.specs import target_spec
from thack.cross_tokenizer import Cells, Rewriter, kept_cells, load_cells, read_bpe, rewritten_from
from thack.data.sequence import TokenSequence
from thack.data.spool import spool
from thack.data.stream import DataStream
from thack.errors import CacheError
from thack.models.batch import Batch
from thack.runtime.progress import Progress
from thack.schema.cross_tokenizer import PUBLISHED, check_published_target
from thack.schema.preflight import CellShares
from thack.targets.across import CellCarrier, CellCounts, CellVariant
from thack.targets.cells import CellTarget
from thack.targets.projected import ProjectedTeacher
from thack.targets.published import PublishedCarrier, PublishedTarget
from thack.targets.shares import aligned, cut_share
from thack.training.data import CachedTargets, LiveTargets, PairedData, SupervisedCache
from thack.training.models import ForeignTokenizer, Models
from thack.training.run_directory import RunDirectory

FILE = "cells.npz"  # in the run's directory
_MEASURED = 64  # sequences whose cells are counted as a run starts
Carrier = CellCarrier | PublishedCarrier


class RewrittenData:
    """The data of a teacher, for a student with another tokenizer.

    Args:
        given: the teacher's sequences and targets.
        rewriter: from the teacher's to the student's.
        carrier: makes the targets.
    """

    keeps_responses = False
    generated_tokens = 0
    lengths = None

    def __init__(self, given: CachedTargets | LiveTargets, rewriter: Rewriter, carrier: Carrier) -> None:
        self.given = given
        self._rewriter, self._carrier = rewriter, carrier

    def __len__(self) -> int:
        return len(self.given)

    @property
    def teacher_tokens(self) -> int:
        return self.given.teacher_tokens

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return [self._rewriter(s) for s in self.given.sequences(positions, epoch)]

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        self.given.expect(_sources(batch) for batch in batches) if batches else self.given.expect(())

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> CellTarget | PublishedTarget:
        return self._target(sequences, batch.device, epoch)

    def measure(self) -> tuple[list[TokenSequence], CellShares]:
        """The first sequences as the teacher reads them, and what another tokenizer costs there."""
        counts = CellCounts()
        found = self.sequences(np.arange(min(_MEASURED, len(self))), 0)
        for start in range(0, len(found), 8):
            self._target(found[start : start + 8], torch.device("cpu"), 0, counts)
        loss = self._carrier.variant
        return _sources(found), replace(counts.shares(), loss=loss, cut=cut_share([rewritten_from(s) for s in found]))

    def _target(
        self, sequences: Sequence[TokenSequence], device: torch.device, epoch: int, counts: CellCounts | None = None
    ) -> CellTarget | PublishedTarget:
        sources = _sources(sequences)
        # A cache's records are carried where they are read; only the result travels.
        batch = Batch.of(sources, "cpu" if isinstance(self.given, CachedTargets) else device)
        target = self.given.target(sources, batch, epoch)
        if isinstance(target, ProjectedTeacher):
            target = target.to_dense()
        return self._carrier.target(target, [aligned(rewritten_from(s)) for s in sequences], counts).to(device)


class RewrittenPairs:
    """A teacher's responses in the student's ids, and nothing else: supervised fine-tuning.

    Args:
        given: the teacher's sequences.
        rewriter: from the teacher's to the student's.
    """

    keeps_responses = False
    generated_tokens = 0
    teacher_tokens = 0
    lengths = None

    def __init__(self, given: PairedData | SupervisedCache, rewriter: Rewriter) -> None:
        self._given, self._rewriter = given, rewriter

    def __len__(self) -> int:
        return len(self._given)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return [self._rewriter(s) for s in self._given.sequences(positions, epoch)]

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        """Nothing is read ahead."""

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> None:
        return None


def _sources(sequences: Iterable[TokenSequence]) -> list[TokenSequence]:
    return [rewritten_from(s).source for s in sequences]


def rewritten(
    given: CachedTargets | LiveTargets,
    cells: Cells,
    settings: DistillSettings,
    models: Models,
    foreign: ForeignTokenizer,
) -> RewrittenData:
    """`given` for the run's student. Prompts come from `data.path` where it is set, else from the teacher's."""
    return RewrittenData(given, _rewriter(cells, settings, models, foreign), _carrier(cells, settings, models))


def rewritten_pairs(
    given: PairedData | SupervisedCache, cells: Cells | None, settings: DistillSettings, models: Models
) -> PairedData | SupervisedCache | RewrittenPairs:
    """Responses alone, as the run's student reads them."""
    if cells is None or models.foreign is None:
        return given
    return RewrittenPairs(given, _rewriter(cells, settings, models, models.foreign))


def _rewriter(cells: Cells, settings: DistillSettings, models: Models, foreign: ForeignTokenizer) -> Rewriter:
    return Rewriter(foreign.tokenizer, models.student.tokenizer, cells, _prompts(settings, models))


def _carrier(cells: Cells, settings: DistillSettings, models: Models) -> Carrier:
    loss = settings.loss.cross_tokenizer
    if loss not in PUBLISHED:
        variant: CellVariant = "cell-next" if loss == "cell-next" else "cell"
        return CellCarrier(cells=cells, student_width=models.width, variant=variant)
    check_published_target(loss, models.cached or target_spec(settings.target))
    return PublishedCarrier(
        cells=cells,
        teacher_width=models.teacher_width,
        student_width=models.width,
        variant=loss,
        temperature=settings.loss.alm_temperature,
    )


def open_cells(models: Models, run: RunDirectory, progress: Progress) -> Cells | None:
    """The comparison of the two vocabularies, kept in the run too; None where there is nothing to compare."""
    foreign = models.foreign
    if foreign is None:
        return None
    path = run.path / FILE
    with run.group.raise_on_all_ranks():
        teacher, student = read_bpe(foreign.tokenizer), read_bpe(models.student.tokenizer)
        if run.writes and not path.is_file():
            with progress.task("comparing the tokenizers", None):
                kept_cells(teacher, student).save(path)
    with run.group.raise_on_all_ranks():
        return load_cells(path, teacher, student)


class _Prompts:
    """The student's ids of each prompt of the data, by its id."""

    def __init__(self, stream: DataStream, settings: DistillSettings) -> None:
        self._sequences = spool(stream, settings.out)
        self._place = {s.prompt_id: n for n, s in enumerate(self._sequences)}

    def __call__(self, prompt_id: str) -> np.ndarray:
        if prompt_id not in self._place:
            raise CacheError(
                f"prompt {prompt_id} is in the cache, and not in the data",
                hint="set `data.path` to the data that was cached, with the same `data.limit`",
            )
        return self._sequences[self._place[prompt_id]].prompt_ids


def _prompts(settings: DistillSettings, models: Models) -> _Prompts | None:
    if not settings.data.path:
        return None
    return _Prompts(DataStream(settings.data, models.student.tokenizer, need_response=False), settings)
