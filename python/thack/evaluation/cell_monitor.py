"""`FixedKL` for a student with another tokenizer: the distance between the teacher's and the student's cells.

    KL(P‖Q) = Σ_c P(c) [log P(c) − log Q(c)]        at every row where a token of both begins

P and Q are the masses of cells that the loss compares (`docs/concepts/cells.md`), P scaled to sum to 1. Unlike a log
ratio it does not depend on the token that was drawn, and is never below 0, also on responses that are memorised. With
equal tokenizers it is the forward KL of every row.

N student rows, C cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from thack.cross_tokenizer import Rewriter, RewrittenSequence, kept_cells, read_bpe, rewritten_from
from thack.data.batching import by_length
from thack.data.sequence import TokenSequence
from thack.evaluation.divergences import PromptTotals
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.readings import Readings
from thack.losses.cells import cell_divergence_
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel, evaluating
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.schema.metric_rows import PromptSums
from thack.schema.targets import Divergence
from thack.targets.across import CellCarrier
from thack.targets.cells import CellTarget
from thack.targets.shares import aligned
from thack.targets.types import DenseTarget
from thack.targets.vocabulary import common_width, log_probs


def cell_distance(
    teacher: LanguageModel, student: LanguageModel, eval_set: EvalSet
) -> Callable[[Sequence[TokenSequence]], FixedCellKL]:
    """Compares the two models' vocabularies, for sequences of `eval_set` in the teacher's ids.

    Raises:
        MismatchError: the tokenizers cannot be compared; of a sequence, that it cannot be written in the student's ids.
    """
    theirs, ours = teacher.tokenizer, student.tokenizer
    cells = kept_cells(read_bpe(theirs), read_bpe(ours))
    prompts = dict(zip(eval_set.ids, Readings(eval_set, [theirs]).prompts(ours), strict=True))
    rewriter = Rewriter(theirs, ours, cells, prompts.__getitem__)
    carrier = CellCarrier(cells=cells, student_width=common_width(ours.size, student=student.vocab_size))
    width = common_width(theirs.size, teacher=teacher.vocab_size)

    def of(sequences: Sequence[TokenSequence]) -> FixedCellKL:
        return FixedCellKL([rewriter(s) for s in sequences], teacher, width, carrier)

    return of


@dataclass(slots=True)
class FixedCellKL:
    """KL(P‖Q) of cells on the text of `sequences`; the teacher's side is kept in memory up to a cap."""

    sequences: Sequence[RewrittenSequence]
    teacher: LanguageModel
    width: int  # ids of the teacher's distributions
    carrier: CellCarrier
    batch_size: int = 16  # masses of all cells take as much memory again as the distributions
    memory_bytes: int = 1 << 29
    group: ProcessGroup = ALONE  # ranks share the batches
    scored_tokens: int = field(default=0, init=False)  # by the teacher, on this rank
    _kept: dict[int, CellTarget] = field(default_factory=dict)

    def measure(self, student: LanguageModel) -> PromptSums:
        """Sums over each sequence, in their order, and the rows where a token of both begins as its tokens."""
        numbered = [replace(sequence, example=i) for i, sequence in enumerate(self.sequences)]
        totals = PromptTotals(len(numbered), num_values=2)
        with evaluating(student):
            for number, part in enumerate(by_length(numbered, self.batch_size)):
                if self.group.owns(number):
                    totals.add(part, self._nats(student, number, [rewritten_from(s) for s in part]))
        nats, rows = totals.of_all_ranks(self.group)
        return PromptSums(nats_P=nats.nats_P, tokens_P=rows.nats_P.round().astype(rows.tokens_P.dtype))

    def _nats(self, student: LanguageModel, number: int, part: Sequence[RewrittenSequence]) -> Tensor:
        """nats_N2: the distance of each row, and whether it is counted."""
        batch = Batch.of(part, student.device)
        target = self._target(number, part).to(batch.device)
        logits_NV = student(batch)[:, : self.carrier.student_width].float().contiguous()
        nats_N = cell_divergence_(logits_NV, target, Divergence())
        nats_N -= torch.special.entr(target.mass_NK).sum(1)
        return torch.stack([nats_N, (target.mass_NK > 0).any(1).to(nats_N.dtype)], dim=1)

    def _target(self, number: int, part: Sequence[RewrittenSequence]) -> CellTarget:
        """Masses that sum to 1, or 0 where no token of the teacher's begins; no weights inside cells."""
        if number in self._kept:
            return self._kept[number]
        batch = Batch.of([s.source for s in part], self.teacher.device)
        self.scored_tokens += len(batch.labels_N)
        teacher_NV = log_probs(self.teacher(batch.for_teacher()), self.width)
        found = self.carrier.target(DenseTarget(log_probs_NV=teacher_NV), [aligned(s) for s in part])
        mass_N1 = found.mass_NK.sum(1, keepdim=True)
        mass_NK = torch.where(mass_N1 > 0, found.mass_NK / mass_N1, 0)
        found = replace(found, mass_NK=mass_NK, weights_NW=torch.zeros_like(found.weights_NW))
        if sum(kept.mass_NK.nbytes for kept in self._kept.values()) + mass_NK.nbytes <= self.memory_bytes:
            self._kept[number] = found
        return found
