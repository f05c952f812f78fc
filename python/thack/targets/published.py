"""What published losses take of a teacher for a student with another tokenizer.

A chunk is what either tokenizer writes from one common boundary to the next: the same bytes, in some tokens of each.
None of these targets can be cut between the rows of a chunk, so their losses take whole logits.

N student rows, M teacher rows, C chunks, K kept values of a row, V student ids, V_T teacher ids, S equal strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from thack.cross_tokenizer import Cells
from thack.cross_tokenizer.cells import role_map
from thack.schema.cross_tokenizer import Published
from thack.targets.across import AlignedResponse, CellCarrier, CellCounts
from thack.targets.realised import realised_log_probs
from thack.targets.types import DenseTarget, FrozenHeadTarget, Packed, Target, TopKTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTarget(Packed):
    """The teacher's likelihood of each chunk: what approximate likelihood matching takes.

    Args:
        labels_N: int64, the student's tokens.
        chunk_N: int64, the chunk of each row, 0 … C − 1 in order.
        is_last_N: bool, the row is the last of its chunk.
        log_p_N: float32, log-likelihood of the chunk at its last row, 0 elsewhere.
        temperature: τ.
        vocab_size: V.
    """

    labels_N: Tensor
    chunk_N: Tensor
    is_last_N: Tensor
    log_p_N: Tensor
    temperature: float
    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedTarget(Packed):
    """The teacher's probabilities without their ids: what universal logit distillation takes.

    Args:
        mass_NK: float32, decreasing; of a dense target all of them.
        tail_N: float32, mass of the ids that are not kept.
        is_paired_N: bool, the row has a row of the teacher's.
        vocab_size: V.
    """

    mass_NK: Tensor
    tail_N: Tensor
    is_paired_N: Tensor
    vocab_size: int


class EqualStrings:
    """Ids of either vocabulary that are the same bytes, or the same kind of end.

    A student whose only end is EOS says with it both of a teacher's ends: U, the distinct ids, are fewer than S then.

    Args:
        teacher_S: int64, increasing.
        student_S: int64, of the same strings.
    """

    def __init__(self, teacher_S: Tensor, student_S: Tensor) -> None:
        place = {u: i for i, u in enumerate(dict.fromkeys(student_S.tolist()))}
        self.teacher_S = teacher_S
        self.student_U = torch.tensor(list(place), dtype=torch.int64)
        self.place_S = torch.tensor([place[u] for u in student_S.tolist()], dtype=torch.int64)  # in student_U

    def teacher_mass(self, mass_BV: Tensor) -> Tensor:
        """mass_BU of the teacher's ids, by the student's: ids of one of the student's are added up."""
        teacher_S, place_S = self.teacher_S.to(mass_BV.device), self.place_S.to(mass_BV.device)
        return mass_BV.new_zeros(len(mass_BV), len(self.student_U)).index_add_(1, place_S, mass_BV[:, teacher_S])

    @classmethod
    def of(cls, cells: Cells, teacher_width: int, student_width: int) -> EqualStrings:
        """Of two vocabularies, as far as their ids are compared."""
        theirs, ours = cells.teacher.bpe, cells.student.bpe
        pairs = {v: ours.id_of[token] for token, v in theirs.id_of.items() if token in ours.id_of}
        pairs |= role_map(theirs, ours)
        kept = sorted((v, u) for v, u in pairs.items() if v < teacher_width and u < student_width)
        found_S2 = torch.tensor(kept, dtype=torch.int64).reshape(-1, 2)
        return cls(found_S2[:, 0], found_S2[:, 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedTarget(Packed):
    """The teacher's row at the beginning of each chunk, merged over it: what GOLD takes.

    Args:
        labels_N: int64, the student's tokens.
        chunk_N: int64, the chunk of each row.
        is_first_N: bool, the row is the first of its chunk.
        mass_NV: float32 [N, V_T] at a chunk's first row p · Π of the realised later tokens of the chunk, 0 elsewhere.
        equal: ids of equal strings.
        vocab_size: V.
    """

    labels_N: Tensor
    chunk_N: Tensor
    is_first_N: Tensor
    mass_NV: Tensor
    equal: EqualStrings
    vocab_size: int


PublishedTarget = ChunkTarget | SortedTarget | MergedTarget


@dataclass(frozen=True, kw_only=True)
class PublishedCarrier:
    """Makes the targets of a published loss.

    Args:
        cells: the comparison of the two vocabularies.
        teacher_width: ids of the teacher that are compared.
        student_width: of the student.
        variant: which loss.
        temperature: τ of `alm`.
    """

    cells: Cells
    teacher_width: int
    student_width: int
    variant: Published
    temperature: float = 1.0

    def target(
        self, teacher: Target, responses: Sequence[AlignedResponse], counts: CellCounts | None = None
    ) -> PublishedTarget:
        """The target of the student's rows, response after response.

        Args:
            teacher: of the teacher's rows, response after response.
            responses: in the order of the rows.
            counts: what cells would count is added to it.

        Returns:
            On the CPU.

        Raises:
            UndefinedLoss: `alm` and `gold` need the log-probabilities of the teacher's tokens, which are not known.
        """
        if counts is not None:
            CellCarrier(cells=self.cells, student_width=self.student_width).target(teacher, responses, counts)
        teacher, chunks = teacher.to("cpu"), _Chunks.of(responses)
        if self.variant == "alm":
            return self._chunks(teacher, chunks)
        if self.variant == "gold":
            return self._merged(teacher, chunks)
        pairs = chunks.in_order if self.variant == "uld" else chunks.common
        return self._sorted(teacher, pairs, len(chunks.labels_N))

    @cached_property
    def _equal(self) -> EqualStrings:
        return EqualStrings.of(self.cells, self.teacher_width, self.student_width)

    def _chunks(self, teacher: Target, chunks: _Chunks) -> ChunkTarget:
        log_p_N = torch.zeros(len(chunks.labels_N))
        log_p_N[chunks.is_last_N] = chunks.log_likelihoods(teacher, chunks.chunk_M >= 0)
        return ChunkTarget(
            labels_N=chunks.labels_N,
            chunk_N=chunks.chunk_N,
            is_last_N=chunks.is_last_N,
            log_p_N=log_p_N,
            temperature=self.temperature,
            vocab_size=self.student_width,
        )

    def _sorted(self, teacher: Target, pairs: tuple[Tensor, Tensor], num_rows: int) -> SortedTarget:
        rows_B, teacher_B = pairs
        mass_BK, tail_B = _decreasing(teacher, teacher_B)
        mass_NK, tail_N = mass_BK.new_zeros(num_rows, mass_BK.shape[1]), tail_B.new_zeros(num_rows)
        is_paired_N = torch.zeros(num_rows, dtype=torch.bool)
        mass_NK[rows_B], tail_N[rows_B], is_paired_N[rows_B] = mass_BK, tail_B, True
        return SortedTarget(mass_NK=mass_NK, tail_N=tail_N, is_paired_N=is_paired_N, vocab_size=self.student_width)

    def _merged(self, teacher: Target, chunks: _Chunks) -> MergedTarget:
        assert isinstance(teacher, DenseTarget), "checked before a run"
        rows_B, teacher_B = chunks.common
        later_C = chunks.log_likelihoods(teacher, (chunks.chunk_M >= 0) & ~chunks.is_first_M)
        mass_BV = (teacher.log_probs_NV[teacher_B].float() + later_C[:, None]).exp()
        mass_NV = mass_BV.new_zeros(len(chunks.labels_N), mass_BV.shape[1])
        mass_NV[rows_B] = mass_BV
        return MergedTarget(
            labels_N=chunks.labels_N,
            chunk_N=chunks.chunk_N,
            is_first_N=chunks.is_first_N,
            mass_NV=mass_NV,
            equal=self._equal,
            vocab_size=self.student_width,
        )


def _decreasing(teacher: Target, rows_B: Tensor) -> tuple[Tensor, Tensor]:
    """mass_BK and tail_B of these rows."""
    if isinstance(teacher, DenseTarget):
        mass_BK = teacher.log_probs_NV[rows_B].float().exp()
        return mass_BK.sort(1, descending=True).values, mass_BK.new_zeros(len(rows_B))
    assert isinstance(teacher, TopKTarget) and teacher.log_tail_N is not None, "checked before a run"
    return teacher.log_probs_NK[rows_B].exp().sort(1, descending=True).values, teacher.log_tail_N[rows_B].exp()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunks:
    """The chunks of several responses, one after the other.

    Args:
        labels_N: int64, the student's tokens.
        chunk_N: int64, the chunk of each of the student's rows.
        is_first_N: bool, a token of both begins at the row.
        chunk_M: int64, the chunk of each of the teacher's rows; −1 behind a control token, where a response is cut.
        is_first_M: bool, as of the student's rows.
        realised_M: int64, the teacher's tokens.
        in_order: rows of student and teacher that have the same place in their response.
    """

    labels_N: Tensor
    chunk_N: Tensor
    is_first_N: Tensor
    chunk_M: Tensor
    is_first_M: Tensor
    realised_M: Tensor
    in_order: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, responses: Sequence[AlignedResponse]) -> _Chunks:
        is_first_N = np.concatenate([r.alignment.is_common_N for r in responses])
        is_first_M = np.concatenate([_teacher_firsts(r) for r in responses])
        read_M = np.concatenate([np.arange(len(r.teacher_ids)) < r.alignment.num_teacher_rows for r in responses])
        start_N = np.cumsum([0, *(len(r.student_ids) for r in responses)])
        start_M = np.cumsum([0, *(len(r.teacher_ids) for r in responses)])
        both = [np.arange(min(len(r.student_ids), r.alignment.num_teacher_rows)) for r in responses]
        tensor = torch.from_numpy
        return cls(
            labels_N=tensor(np.concatenate([np.asarray(r.student_ids, np.int64) for r in responses])),
            chunk_N=tensor(np.cumsum(is_first_N) - 1),
            is_first_N=tensor(is_first_N),
            chunk_M=tensor(np.where(read_M, np.cumsum(is_first_M) - 1, -1)),
            is_first_M=tensor(is_first_M),
            realised_M=tensor(np.concatenate([np.asarray(r.teacher_ids, np.int64) for r in responses])),
            in_order=(
                tensor(np.concatenate([rows + s for rows, s in zip(both, start_N, strict=False)])),
                tensor(np.concatenate([rows + s for rows, s in zip(both, start_M, strict=False)])),
            ),
        )

    @property
    def is_last_N(self) -> Tensor:
        """bool: the next row begins another chunk."""
        return torch.cat([self.is_first_N[1:], torch.ones(1, dtype=torch.bool)])

    @property
    def common(self) -> tuple[Tensor, Tensor]:
        """The first rows of each chunk, of student and teacher."""
        return self.is_first_N.nonzero()[:, 0], self.is_first_M.nonzero()[:, 0]

    def log_likelihoods(self, teacher: Target, counted_M: Tensor) -> Tensor:
        """float32 [C] the teacher's log-likelihood of the tokens of each chunk that are counted."""
        assert not isinstance(teacher, FrozenHeadTarget), "of a head whose ids are the teacher's"
        log_p_M = realised_log_probs(teacher, self.realised_M).float()
        found_C = log_p_M.new_zeros(int(self.is_first_N.sum()))
        return found_C.index_add_(0, self.chunk_M[counted_M], log_p_M[counted_M])


def _teacher_firsts(response: AlignedResponse) -> np.ndarray:
    found = np.zeros(len(response.teacher_ids), bool)
    found[response.alignment.common_teacher_B] = True
    return found
