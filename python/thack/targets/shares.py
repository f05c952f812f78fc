"""What a student with another tokenizer would lose, measured on a few responses before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from thack.cross_tokenizer import Rewriter, RewrittenSequence, kept_cells, read_bpe
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError
from thack.models.batch import Batch
from thack.models.precision import Precision
from thack.models.protocol import LanguageModel, evaluating
from thack.schema.cross_tokenizer import PUBLISHED
from thack.schema.preflight import CellShares, Finding
from thack.targets.across import AlignedResponse, CellCarrier, CellCounts
from thack.targets.types import DenseTarget
from thack.targets.vocabulary import common_width, log_probs

_MUCH_OUTSIDE = 0.05  # share of realised tokens
_MUCH_LEFT_OUT = 0.2  # share of the mass
_MUCH_CUT = 0.01  # share of the responses
_COMPARES = {
    "alm": "is ALM, which compares likelihoods of chunks",
    "uld": "is ULD, which compares sorted probabilities, in order",
    "uld-common": "is ULD, which compares sorted probabilities where tokens begin together",
    "gold": "is GOLD's, which compares ids of equal strings, and the others sorted",
}
_NOTHING = np.zeros(0, np.int32)


def measured_cells(
    teacher: LanguageModel, student: Tokenizer, sequences: Sequence[TokenSequence], precision: Precision
) -> CellShares:
    """The shares of a student with another tokenizer, on the teacher's own distributions.

    Args:
        teacher: scores one sequence at a time.
        student: its tokenizer.
        sequences: as the teacher reads them, with responses. Prompts are not compared.
        precision: of the teacher's products.

    Raises:
        MismatchError: the tokenizers cannot be compared, or a response begins with a control token.
    """
    tokenizer = teacher.tokenizer
    cells = kept_cells(read_bpe(tokenizer), read_bpe(student))
    rewriter = Rewriter(tokenizer, student, cells, prompts=lambda _: _NOTHING)
    carrier = CellCarrier(cells=cells, student_width=student.size)
    counts, width = CellCounts(), common_width(tokenizer.size, teacher=teacher.vocab_size)
    found = [rewriter(s) for s in sequences if len(s.response_ids)]
    with evaluating(teacher), precision.autocast(teacher):
        for s in found:
            target = DenseTarget(log_probs_NV=log_probs(teacher(Batch.of([s.source], teacher.device)), width).float())
            carrier.target(target, [aligned(s)], counts)
    return replace(counts.shares(), cut=cut_share(found))


def aligned(s: RewrittenSequence) -> AlignedResponse:
    """Both responses of a sequence."""
    return AlignedResponse(teacher_ids=s.source.response_ids, student_ids=s.response_ids, alignment=s.alignment)


def cut_share(sequences: Sequence[RewrittenSequence]) -> float:
    """Responses that were cut at a control token, as a share."""
    return sum(s.is_cut for s in sequences) / max(len(sequences), 1)


def cell_findings(shares: CellShares) -> Iterator[Finding]:
    """Lines of a report."""
    yield Finding(
        name="another tokenizer",
        value=f"the loss {_COMPARES.get(shares.loss, 'compares cells')}: {shares.common:.1%} of {shares.rows:,} "
        f"student tokens begin where a teacher token does, {shares.settled:.1%} of the teacher's tokens there settle "
        "the student's",
    )
    yield from () if shares.loss in PUBLISHED else _of_cells(shares)
    if shares.cut:
        yield Finding(
            name="control tokens",
            value=f"{shares.cut:.1%} of the responses are cut at one, which the student has no text for",
            state="note" if shares.cut > _MUCH_CUT else "ok",
            advice="take them out of the data, or use the teacher's tokenizer" if shares.cut > _MUCH_CUT else "",
        )


def _of_cells(shares: CellShares) -> Iterator[Finding]:
    lost = shares.left_out + shares.forbidden
    yield Finding(
        name="mass left out",
        value=f"{shares.forbidden:.1%} in pairs that the student's encoder never writes, {shares.left_out:.1%} in ids "
        "that it has no text for",
        state="note" if lost > _MUCH_LEFT_OUT else "ok",
        advice="a student with a closer tokenizer loses less" if lost > _MUCH_LEFT_OUT else "",
    )
    much = shares.outside > _MUCH_OUTSIDE
    yield Finding(
        name="outside cells",
        value=f"{shares.outside:.1%} of the student's tokens are in another cell than the teacher's: a bias",
        state="note" if much else "ok",
        advice="compare with `loss.weight = 0` and `loss.ce_weight = 1`, or take a closer tokenizer" if much else "",
    )


def refusal(error: MismatchError) -> Finding:
    """The line of tokenizers that cannot be compared."""
    return Finding(name="another tokenizer", value=error.message, state="wrong", advice=error.hint or "")
