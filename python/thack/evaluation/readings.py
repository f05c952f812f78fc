"""Responses as who wrote them, and as a model with another tokenizer, read them: the same bytes in the ids of each.

What the other tokenizer cannot write is left out on both sides: all behind a control token, and responses whose bytes
it does not give back. P prompts of the evaluation set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thack.cross_tokenizer import Alignment, TextRewriter, align, read_bpe
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, UsageError
from thack.evaluation.eval_set import EvalSet
from thack.schema.metric_rows import PromptSums
from thack.schema.metrics import METRIC_OF, Role

_HINT = "give the file of prompts as `eval_data`: the set is then written with the prompts of this student"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Responses of one writer, and the same for another reader.

    Args:
        written: in the writer's ids, without what is left out.
        read: the same in the reader's ids, in the same order.
        bytes_P: int64, of the text that is compared; 0 of a response that is left out.
        shortened: responses that hold a control token, and are compared up to it.
        left_out: responses that are not compared at all.
        left_out_share: of the writer's tokens, those that are not compared.
    """

    written: list[TokenSequence]
    read: list[TokenSequence]
    bytes_P: np.ndarray
    shortened: int = 0
    left_out: int = 0
    left_out_share: float = 0.0

    def of_writer(self, sums: PromptSums) -> PromptSums:
        """Sums of the reader, counted by the writer's tokens and the bytes: the same for every reader."""
        tokens_P = np.zeros(len(self.bytes_P), np.int64)
        tokens_P[[s.example for s in self.written]] = [len(s.response_ids) for s in self.written]
        return PromptSums(nats_P=sums.nats_P, tokens_P=tokens_P, bytes_P=self.bytes_P)

    def check(self, role: Role) -> None:
        """Refuse to compare nothing.

        Raises:
            MismatchError: every response is left out.
        """
        if not self.written:
            raise MismatchError(
                f"no response of the {role} can be written with the student's tokenizer",
                details=("each begins with a control token, or holds bytes that the tokenizer does not give back",),
                hint="use references whose tokenizer is closer to the student's, or the student's own",
            )

    def note(self, role: Role) -> str:
        """How the student is compared with a reference, and what is left out."""
        text = f"{METRIC_OF[role]}: in nats per byte, since the student has another tokenizer"
        parts = []
        if self.shortened:
            parts.append(f"{self.shortened} are compared up to a control token")
        if self.left_out:
            parts.append(f"{self.left_out} are left out, which it cannot write")
        return f"{text}; of {len(self.bytes_P):,} responses {' and '.join(parts)}" if parts else text


def log_ratio(reading: Reading, writer: PromptSums, reader: PromptSums) -> PromptSums:
    """log P(y) − log Q(y) of every response y, from both negative log-likelihoods: P wrote it, Q is the other model.

    Over responses of P its mean estimates the forward KL of whole responses without bias, up to how they are split
    into tokens: Q is counted with the one encoding that its tokenizer gives the text.
    """
    return reading.of_writer(replace(reader, nats_P=reader.nats_P - writer.nats_P))


class Readings:
    """The responses to an evaluation set's prompts in the ids of every model; those of its writers are kept.

    Args:
        eval_set: with prompts in the ids of some tokenizers; in others they are rewritten.
        tokenizers: of the references.
    """

    def __init__(self, eval_set: EvalSet, tokenizers: Iterable[Tokenizer]) -> None:
        self._eval_set = eval_set
        self._known = {tokenizer.fingerprint(): tokenizer for tokenizer in tokenizers}
        self._rewriters: dict[tuple[str, str], TextRewriter] = {}
        self._sizes: dict[str, np.ndarray] = {}
        self._prompts: dict[str, tuple[np.ndarray, ...]] = {}
        self._fixed: dict[tuple[Role, str], Reading] = {}

    def of(self, writer: Role, reader: Tokenizer) -> Reading:
        """The fixed responses of `writer`."""
        name = reader.fingerprint()
        if (writer, name) not in self._fixed:
            source = self._tokenizer(self._eval_set.tokenizer_of(writer), reader)
            self._fixed[writer, name] = self.between(self._eval_set.sequences(writer), source, reader)
        return self._fixed[writer, name]

    def between(self, written: Sequence[TokenSequence], writer: Tokenizer, reader: Tokenizer) -> Reading:
        """Any responses, one per prompt.

        Raises:
            MismatchError: a tokenizer is of a kind whose tokens have no bytes of their own; or the evaluation set
                has no prompts in the reader's ids, and they cannot be made from those that it has.
        """
        if writer.fingerprint() == reader.fingerprint():
            sizes_V = self._sizes_of(writer)
            bytes_P = np.array([sizes_V[s.response_ids].sum() for s in written], np.int64)
            return Reading(written=list(written), read=list(written), bytes_P=bytes_P)
        rewriter = self._rewriter(writer, reader)
        rewritten = [rewriter.response(s.response_ids) for s in written]
        found = [r if r.is_whole and len(r.ids) else None for r in rewritten]
        kept = [(s, len(r.source_ids)) for s, r in zip(written, found, strict=True) if r is not None]
        read = [None if r is None else r.ids for r in found]
        return Reading(
            written=[replace(s, response_ids=s.response_ids[:length]) for s, length in kept],
            read=self._eval_set.sequences_of(read, reader.fingerprint(), self.prompts(reader)),
            bytes_P=np.array([0 if r is None else r.num_bytes for r in found], np.int64),
            shortened=sum(length < len(s.response_ids) for s, length in kept),
            left_out=len(written) - len(kept),
            left_out_share=1 - sum(length for _, length in kept) / sum(len(s.response_ids) for s in written),
        )

    def alignment(self, written: TokenSequence, read: TokenSequence, writer: Tokenizer, reader: Tokenizer) -> Alignment:
        """Of the two encodings of one response of a `Reading`."""
        rewriter = self._rewriter(writer, reader)
        source_ids = rewriter.response(written.response_ids).source_ids
        return align(source_ids, read.response_ids, rewriter.bpe, rewriter.target_bpe)

    def check_bytes(self, tokenizers: Iterable[Tokenizer]) -> None:
        """Refuse tokenizers whose tokens have no bytes of their own, where bytes are counted because of a setting.

        Raises:
            UsageError: names the setting and the reason.
        """
        for tokenizer in tokenizers:
            try:
                self._sizes_of(tokenizer)
            except MismatchError as error:
                raise UsageError(
                    "evaluation.per_byte counts the bytes of tokens, and a tokenizer's have none of their own",
                    details=(error.message,),
                    hint="leave out `evaluation.per_byte`: models with one tokenizer are compared per token",
                ) from error

    def prompts(self, reader: Tokenizer) -> tuple[np.ndarray, ...]:
        """The prompts in a model's ids."""
        name, eval_set = reader.fingerprint(), self._eval_set
        if name not in self._prompts:
            self._prompts[name] = eval_set.prompts_in(name) or self._rewritten(reader)
        return self._prompts[name]

    def _rewritten(self, reader: Tokenizer) -> tuple[np.ndarray, ...]:
        eval_set = self._eval_set
        rewriter = self._rewriter(self._tokenizer(eval_set.origin.tokenizer, reader), reader)
        named = zip(eval_set.ids, eval_set.prompts, strict=True)
        return tuple(rewriter.prompt(ids, name, _HINT) for name, ids in named)

    def _tokenizer(self, fingerprint: str, reader: Tokenizer) -> Tokenizer:
        if fingerprint == reader.fingerprint():
            return reader
        if fingerprint not in self._known:
            raise MismatchError(
                "the evaluation set was encoded with another tokenizer than the student's, and no reference has it",
                details=(f"evaluation set  {fingerprint}", f"student         {reader.fingerprint()}"),
                hint=_HINT,
            )
        return self._known[fingerprint]

    def _rewriter(self, source: Tokenizer, target: Tokenizer) -> TextRewriter:
        key = (source.fingerprint(), target.fingerprint())
        if key not in self._rewriters:
            self._rewriters[key] = TextRewriter(source, target)
        return self._rewriters[key]

    def _sizes_of(self, tokenizer: Tokenizer) -> np.ndarray:
        """int64 [V] bytes of text of each id."""
        name = tokenizer.fingerprint()
        if name not in self._sizes:
            self._sizes[name] = np.array([len(token or b"") for token in read_bpe(tokenizer).bytes_V], np.int64)
        return self._sizes[name]
