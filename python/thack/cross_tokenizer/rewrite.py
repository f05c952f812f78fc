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
from thack.cross_tokenizer.cells import Cells, role_map
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
        self._teacher, self._student, self._cells, self._prompts = teacher, student, cells, prompts
        self._bytes_V = cells.teacher.bpe.bytes_V
        self._roles = role_map(cells.teacher.bpe, cells.student.bpe)

    def __call__(self, s: TokenSequence) -> RewrittenSequence:
        """The student's sequence.

        Raises:
            MismatchError: the prompt holds control tokens and none is given for it; or the response begins with one.
        """
        text, end = self._parts(s.response_ids)
        theirs, ours = list(text), self._encode(b"".join(self._bytes_V[i] or b"" for i in text))
        if end is not None:
            theirs, ours = [*theirs, end], np.append(ours, np.int32(self._roles[end]))
        if not len(ours):
            token = self._teacher.token(int(s.response_ids[0]))
            raise MismatchError(
                f"prompt {s.prompt_id}: the response begins with {token!r}, which is no text",
                hint="take it out of the data, or use a student with the teacher's tokenizer",
            )
        return RewrittenSequence(
            example=s.example,
            prompt_id=s.prompt_id,
            prompt_ids=self._prompt(s),
            response_ids=ours,
            sample=s.sample,
            position=s.position,
            source=s,
            alignment=align(theirs, ours, self._cells.teacher.bpe, self._cells.student.bpe),
        )

    def _parts(self, ids: np.ndarray) -> tuple[list[int], int | None]:
        """The ids up to the first that is no text; and the end behind them, as the teacher's id of a role."""
        found = [int(i) for i in ids]
        place = next((n for n, i in enumerate(found) if self._bytes_V[i] is None or i in self._roles), len(found))
        if place == len(found) or found[place] not in self._teacher.ends.ids:
            return found[:place], None
        end = found[place]
        return found[:place], end if end in self._roles else self._teacher.eos_id

    def _encode(self, data: bytes) -> np.ndarray:
        try:
            return self._student.encode_inside(data.decode(), as_text=True)
        except UnicodeDecodeError:  # a response that was cut inside a character
            return np.array(self._cells.student.encode(data), np.int32)

    def _prompt(self, s: TokenSequence) -> np.ndarray:
        if self._prompts is not None:
            return self._prompts(s.prompt_id)
        before = len(self._teacher.as_prompt(np.zeros(0, np.int32)))
        control = [int(i) for i in s.prompt_ids[before:] if self._bytes_V[int(i)] is None]
        if control:
            raise MismatchError(
                f"prompt {s.prompt_id} holds {self._teacher.token(control[0])!r}, which is no text",
                details=("the teacher's chat template wrote it, and the student has a template of its own",),
                hint="set `data.path` to the conversations: they are rendered anew for the student",
            )
        return self._student.as_prompt(self._student.encode(self._teacher.decode(s.prompt_ids)))


def rewritten_from(s: TokenSequence) -> RewrittenSequence:
    """The same sequence, known to be rewritten."""
    assert isinstance(s, RewrittenSequence), "a sequence that was not rewritten for the student"
    return s
