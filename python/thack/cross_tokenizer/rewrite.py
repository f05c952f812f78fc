"""A teacher's sequences as a student with another tokenizer reads them: the same bytes, in the student's ids.

The response is the student's encoding of the bytes of the teacher's tokens, apart from the prompt, since the student
continues a prompt that was encoded alone. Its end is the student's end of the same role. A response that holds a
control token is cut there: it is no text, and means nothing to the student.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thack.cross_tokenizer.align import Alignment, align
from thack.cross_tokenizer.bpe import Bpe, read_bpe
from thack.cross_tokenizer.cells import Cells, role_map
from thack.cross_tokenizer.encoder import Encoder
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrittenSequence(TokenSequence):
    """A student's sequence, with the teacher's that it was made from.

    Args:
        source: the teacher's sequence.
        alignment: of the two responses.
    """

    source: TokenSequence
    alignment: Alignment

    @property
    def is_cut(self) -> bool:
        """Whether the teacher's response continues behind a control token."""
        return self.alignment.num_teacher_rows < len(self.source.response_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrittenResponse:
    """A response in the ids of another tokenizer.

    Args:
        source_ids: those that are rewritten: up to the first control token, and the end behind them as one of a role.
        ids: int32 [R] the same bytes in the other tokenizer, and its end of the same role; empty where the response
            begins with a control token.
        num_bytes: bytes of text; ends have none.
        is_whole: the other tokenizer gives these bytes back.
    """

    source_ids: list[int]
    ids: np.ndarray
    num_bytes: int
    is_whole: bool


class TextRewriter:
    """Rewrites what one tokenizer encoded in the ids of another, by its bytes.

    Args:
        source: of what is rewritten.
        target: of the result.
        cells: a comparison of the two, of which nothing is used but the tokenizers that it has taken apart.

    Raises:
        MismatchError: a tokenizer is of a kind whose tokens have no bytes of their own.
    """

    def __init__(self, source: Tokenizer, target: Tokenizer, cells: Cells | None = None) -> None:
        self.source, self.target = source, target
        self.bpe = read_bpe(source) if cells is None else cells.teacher.bpe
        self._encoder = Encoder(read_bpe(target)) if cells is None else cells.student
        self.roles = role_map(self.bpe, self._encoder.bpe)

    @property
    def target_bpe(self) -> Bpe:
        """The target, taken apart."""
        return self._encoder.bpe

    def response(self, ids: np.ndarray) -> RewrittenResponse:
        """The same text up to the first control token, with the end behind it."""
        text, end = self._parts(ids)
        data = b"".join(self.bpe.bytes_V[i] or b"" for i in text)
        found = self._encode(data)
        given_back = b"".join(self._encoder.bpe.bytes_V[int(i)] or b"" for i in found)
        return RewrittenResponse(
            source_ids=text if end is None else [*text, end],
            ids=found if end is None else np.append(found, np.int32(self.roles[end])),
            num_bytes=len(data),
            is_whole=given_back == data,
        )

    def unknown(self, ids: np.ndarray) -> str | None:
        """The first of the target's tokens in a rewritten response that is neither text nor an end."""
        bytes_V, ends = self._encoder.bpe.bytes_V, self.roles.values()
        found = next((int(i) for i in ids if not bytes_V[int(i)] and int(i) not in ends), None)
        return None if found is None else self.target.token(found) or f"id {found}"

    def prompt(self, ids: np.ndarray, name: str, hint: str) -> np.ndarray:
        """A prompt of text alone.

        Args:
            ids: As the source encodes it.
            name: Of the prompt, for the error.
            hint: What to do where it cannot be rewritten.

        Raises:
            MismatchError: it holds a control token, which a chat template wrote.
        """
        before = len(self.source.as_prompt(np.zeros(0, np.int32)))
        control = [int(i) for i in ids[before:] if self.bpe.bytes_V[int(i)] is None]
        if control:
            raise MismatchError(
                f"prompt {name} holds {self.source.token(control[0])!r}, which is no text",
                details=("a chat template wrote it, and the other tokenizer has a template of its own",),
                hint=hint,
            )
        return self.target.as_prompt(self.target.encode(self.source.decode(ids)))

    def _parts(self, ids: np.ndarray) -> tuple[list[int], int | None]:
        """The ids up to the first that is no text; and the end behind them, as the source's id of a role."""
        found, bytes_V = [int(i) for i in ids], self.bpe.bytes_V
        place = next((n for n, i in enumerate(found) if bytes_V[i] is None or i in self.roles), len(found))
        if place == len(found) or found[place] not in self.source.ends.ids:
            return found[:place], None
        end = found[place]
        return found[:place], end if end in self.roles else self.source.eos_id

    def _encode(self, data: bytes) -> np.ndarray:
        try:
            return self.target.encode_inside(data.decode(), as_text=True)
        except UnicodeDecodeError:  # a response that was cut inside a character
            return np.array(self._encoder.encode(data), np.int32)


class Rewriter:
    """Rewrites sequences of one tokenizer in another.

    Args:
        teacher: of the sequences.
        student: of the result.
        cells: the comparison of the two.
        prompts: the student's ids of a prompt, by its id; None: they are made from the teacher's, which must be text.
    """

    def __init__(
        self,
        teacher: Tokenizer,
        student: Tokenizer,
        cells: Cells,
        prompts: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        self._cells, self._prompts = cells, prompts
        self._text = TextRewriter(teacher, student, cells)

    def accepts(self, s: TokenSequence) -> bool:
        """Whether the response can be written in the student's ids, at least up to a control token."""
        found = self._text.response(s.response_ids)
        return found.is_whole and len(found.ids) > 0

    def __call__(self, s: TokenSequence) -> RewrittenSequence:
        """The student's sequence.

        Raises:
            MismatchError: the prompt holds control tokens and none is given for it; or the response begins with one; or
                the student's tokenizer has no text for a part of it.
        """
        found = self._text.response(s.response_ids)
        if unknown := self._text.unknown(found.ids):
            raise MismatchError(
                f"prompt {s.prompt_id}: the student's tokenizer writes {unknown!r} in the response, which is no text",
                details=("it stands for bytes that the student's vocabulary lacks",),
                hint="take the response out of the data, or use a student whose tokenizer has every byte",
            )
        if not len(found.ids):
            token = self._text.source.token(int(s.response_ids[0]))
            raise MismatchError(
                f"prompt {s.prompt_id}: the response begins with {token!r}, which is no text",
                hint="take it out of the data, or use a student with the teacher's tokenizer",
            )
        return RewrittenSequence(
            example=s.example,
            prompt_id=s.prompt_id,
            prompt_ids=self._prompt(s),
            response_ids=found.ids,
            sample=s.sample,
            position=s.position,
            source=s,
            alignment=align(found.source_ids, found.ids, self._cells.teacher.bpe, self._cells.student.bpe),
        )

    def _prompt(self, s: TokenSequence) -> np.ndarray:
        if self._prompts is not None:
            return self._prompts(s.prompt_id)
        hint = "set `data.path` to the conversations: they are rendered anew for the student"
        return self._text.prompt(s.prompt_ids, s.prompt_id, hint)


def rewritten_from(s: TokenSequence) -> RewrittenSequence:
    """The same sequence, known to be rewritten."""
    assert isinstance(s, RewrittenSequence), "a sequence that was not rewritten for the student"
    return s
