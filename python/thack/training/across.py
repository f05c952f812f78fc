"""What a student with another tokenizer trains on: the teacher's sequences rewritten, and targets across tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from thack.cache import Cache
from thack.config import DistillSettings
from thack.config.specs import target_spec
from thack.cross_tokenizer import (
    Bpe,
    Cells,
    Rewriter,
    RewrittenSequence,
    kept_cells,
    load_cells,
    read_bpe,
    rewritten_from,
)
from thack.data.date import NAME as DATE
from thack.data.date import with_settings
from thack.data.sequence import TokenSequence
from thack.data.spool import spool
from thack.data.stream import DataStream
from thack.errors import CacheError
from thack.evaluation.cell_monitor import FixedCellKL
from thack.models.batch import Batch
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import Progress
from thack.schema.cross_tokenizer import PUBLISHED, check_published_target
from thack.schema.preflight import CellShares
from thack.targets.across import CellCarrier, CellCounts, CellVariant
from thack.targets.cells import CellTarget
from thack.targets.projected import ProjectedTeacher
from thack.targets.published import PublishedCarrier, PublishedTarget
from thack.targets.shares import aligned, cut_share
from thack.training.data import CachedTargets, LiveTargets, PairedData, SupervisedCache
from thack.training.guarded_data import GuardedData
from thack.training.models import Models
from thack.training.prompts import PromptPlaces, cached_parts, prompt_hashes
from thack.training.run_directory import RunDirectory

FILE = "cells.npz"  # in the run's directory
_UNBOUNDED = 1 << 40  # tokens
_MEASURED = 64  # sequences whose cells are counted as a run starts
Carrier = CellCarrier | PublishedCarrier


class RewrittenData:
    """The data of a teacher, for a student with another tokenizer.

    Args:
        given: the teacher's sequences and targets.
        rewriter: from the teacher's to the student's.
        carrier: makes the targets.
    """

    lengths = None

    def __init__(self, given: CachedTargets | LiveTargets | GuardedData, rewriter: Rewriter, carrier: Carrier) -> None:
        self.given, self.rewriter = given, rewriter
        self._carrier = carrier

    def __len__(self) -> int:
        return len(self.given)

    @property
    def keeps_responses(self) -> bool:
        return self.given.keeps_responses

    @property
    def generated_tokens(self) -> int:
        return self.given.generated_tokens

    @property
    def teacher_tokens(self) -> int:
        return self.given.teacher_tokens

    def of(self, given: GuardedData) -> RewrittenData:
        """The same of other data of the teacher."""
        return RewrittenData(given, self.rewriter, self._carrier)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return self.rewritten(self.given.sequences(positions, epoch))

    def expect(self, batches: Iterable[Sequence[TokenSequence]]) -> None:
        self.given.expect(_sources(batch) for batch in batches) if batches else self.given.expect(())

    def target(self, sequences: Sequence[TokenSequence], batch: Batch, epoch: int) -> CellTarget | PublishedTarget:
        return self._target(sequences, batch.device, epoch)

    def rewritten(self, sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
        """The teacher's sequences in the student's ids."""
        return [self.rewriter(s) for s in sequences]

    def measure(self) -> tuple[list[TokenSequence], CellShares | None]:
        """The first given sequences as the teacher reads them, and what another tokenizer costs there.

        None where all responses are newly sampled.
        """
        given = self.given.data if isinstance(self.given, LiveTargets) else self.given.sequences(_first(self), 0)
        answered = [s for s in given[:_MEASURED] if len(s.response_ids)]
        if not answered:
            return list(given[:_MEASURED]), None
        counts, found = CellCounts(), self.rewritten(answered)
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
        assert target is not None and not isinstance(target, CellTarget | PublishedTarget), "of the teacher's ids"
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


def _first(data: RewrittenData) -> np.ndarray:
    return np.arange(min(_MEASURED, len(data)))


def as_sampled(sequences: Iterable[TokenSequence]) -> list[TokenSequence]:
    """Sequences as their writer has them: of those that were rewritten, the teacher's."""
    return [s.source if isinstance(s, RewrittenSequence) else s for s in sequences]


def _sources(sequences: Iterable[TokenSequence]) -> list[TokenSequence]:
    return [rewritten_from(s).source for s in sequences]


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """A run whose student has another tokenizer than its teacher.

    Args:
        cells: the comparison of the two vocabularies.
        rewriter: from the teacher's sequences to the student's.
    """

    cells: Cells
    rewriter: Rewriter

    @classmethod
    def of(cls, settings: DistillSettings, models: Models, run: RunDirectory, progress: Progress) -> Across | None:
        """On every rank; None where there is one tokenizer.

        Prompts come from `data.path` where it is set, else from the teacher's.
        """
        cells = open_cells(models, run, progress)
        if cells is None or models.foreign is None:
            return None
        with run.group.raise_on_all_ranks():
            prompts = _prompts(settings, models, cells, progress)
            rewriter = Rewriter(models.foreign.tokenizer, models.student.tokenizer, cells, prompts)
        return cls(cells=cells, rewriter=rewriter)

    def data(self, given: CachedTargets | LiveTargets, settings: DistillSettings, models: Models) -> RewrittenData:
        """`given` for the run's student."""
        return RewrittenData(given, self.rewriter, _carrier(self.cells, settings, models))

    def pairs(self, given: PairedData | SupervisedCache) -> RewrittenPairs:
        """Responses alone, as the run's student reads them."""
        return RewrittenPairs(given, self.rewriter)

    def distance(self, sequences: Sequence[TokenSequence], models: Models, group: ProcessGroup) -> FixedCellKL:
        """Between the cells of the run's teacher and student, on responses of the teacher's."""
        assert models.teacher is not None
        return FixedCellKL(
            [self.rewriter(s) for s in sequences],
            models.teacher,
            models.teacher_width,
            CellCarrier(cells=self.cells, student_width=models.width),
            group=group,
        )


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
    """Each prompt of the data in the ids of one tokenizer, by its id."""

    def __init__(self, stream: DataStream, settings: DistillSettings) -> None:
        self._sequences = spool(stream, settings.out)
        self._places = PromptPlaces(prompt_hashes(s.prompt_id for s in self._sequences))

    def __call__(self, prompt_id: str) -> np.ndarray:
        found = self.find(prompt_id)
        if found is None:
            raise CacheError(
                f"prompt {prompt_id} is in the cache, and not in the data",
                hint="set `data.path` to the data that was cached, with the same `data.limit`",
            )
        return found

    def find(self, prompt_id: str) -> np.ndarray | None:
        """None where the data has no prompt of this id."""
        place = int(self._places.of([prompt_id])[0])
        found = self._sequences[place] if place >= 0 else None
        # Two ids may have one hash.
        return None if found is None or found.prompt_id != prompt_id else found.prompt_ids


def _prompts(settings: DistillSettings, models: Models, cells: Cells, progress: Progress) -> _Prompts | None:
    """Every prompt that the teacher read, which bounds them in tokens of its own: those of the student may be more."""
    data = settings.data
    if not data.path:
        return None
    for cache in models.caches:
        assert models.foreign is not None
        is_dated = (cache.directory / DATE).is_file()
        teacher = with_settings(models.foreign.tokenizer, data, cache.directory if is_dated else settings.out)
        read = DataStream(data, teacher, need_response=False, progress=progress)
        _check_same_prompts(cache, _Prompts(read, settings), cells.teacher.bpe)
    if data.on_long == "drop":
        data = replace(data, max_prompt_tokens=_UNBOUNDED)
    stream = DataStream(data, models.student.tokenizer, need_response=False, progress=progress)
    return _Prompts(stream, settings)


def _check_same_prompts(cache: Cache, prompts: _Prompts, teacher: Bpe) -> None:
    """See that what the teacher has read under a prompt's id is that prompt of the data, which the student reads.

    Raises:
        CacheError: it is another one, or the cache holds several turns of a conversation.
    """
    others = []
    for s in (s for part in cached_parts(cache) for s in part):
        given = prompts.find(s.prompt_id)
        if given is not None and not np.array_equal(given, s.prompt_ids) and not _begins(s, given, teacher):
            others.append(s.prompt_id)
    if others:
        raise CacheError(
            f"{len(others):,} of {len(cache):,} cached responses stand behind another prompt than the data has",
            details=("prompts: " + ", ".join(others[:3]) + (", …" if len(others) > 3 else ""),),
            hint="give the data that was cached, with the same settings of `data` and the last turns alone",
        )


def _begins(s: TokenSequence, given: np.ndarray, teacher: Bpe) -> bool:
    """Whether a cached text begins with a prompt of which the last characters share a token with the response."""
    ids_of_parts = (s.prompt_ids, given, np.concatenate((s.prompt_ids, s.response_ids)))
    prompt, own, text = (b"".join(teacher.bytes_V[i] or b"<%d>" % i for i in ids) for ids in ids_of_parts)
    return own.startswith(prompt) and text.startswith(own)
