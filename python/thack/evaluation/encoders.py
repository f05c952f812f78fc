"""The tokenizers in whose ids an evaluation set has its prompts: of the references, and of students with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thack.data import Record
from thack.data.encode import encode_prompts, encode_teacher_prompts
from thack.data.heads import Bounds
from thack.data.tokenizer import Tokenizer
from thack.evaluation.references import References


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompts:
    """Prompts in the ids of every tokenizer.

    Attributes:
        by_tokenizer: By fingerprint, int32 ids per prompt.
        teacher: What the teacher reads in their place, in its own ids; empty: the prompts.
    """

    by_tokenizer: dict[str, tuple[np.ndarray, ...]]
    teacher: tuple[np.ndarray, ...]

    def fitting(self, maximum: int) -> list[int]:
        """The prompts that are neither empty nor longer than `maximum` tokens for any reader."""
        read = [*self.by_tokenizer.values(), *([self.teacher] if self.teacher else [])]
        lengths = [[len(ids) for ids in each] for each in zip(*read, strict=True)]
        return [i for i, sizes in enumerate(lengths) if min(sizes) > 0 and max(sizes) <= maximum]

    def only(self, keep: Sequence[int]) -> EncodedPrompts:
        """Those of these numbers."""
        return EncodedPrompts(
            by_tokenizer={name: tuple(ids[i] for i in keep) for name, ids in self.by_tokenizer.items()},
            teacher=tuple(self.teacher[i] for i in keep) if self.teacher else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """Each tokenizer once. The first is that of `EvalSet.prompts`; `teacher` is among them."""

    all: tuple[Tokenizer, ...]
    teacher: Tokenizer

    @classmethod
    def of(cls, references: References, others: Sequence[Tokenizer]) -> Encoders:
        """Of the references, and others behind them. Where there is no teacher, the first stands for its tokenizer."""
        named: dict[str, Tokenizer] = {}
        for tokenizer in (*references.tokenizers, *others):
            named.setdefault(tokenizer.fingerprint(), tokenizer)
        first = next(iter(named.values()))
        teacher = first if references.teacher is None else references.teacher.tokenizer
        return cls(all=tuple(named.values()), teacher=named[teacher.fingerprint()])

    def facts(self) -> list[str]:
        """What the ids of prompts depend on beside the tokenizer of the first reference."""
        first, *others = self.all
        return [*first.options.facts(), *(fact for t in others for fact in (t.fingerprint(), *t.options.facts()))]

    def encode(self, records: Sequence[Record], maximum: int) -> EncodedPrompts:
        """The prompts of `records`; of one that has more than `maximum` ids only a beginning that has, too.

        Raises:
            DataError: a template does not accept a conversation.
        """
        bounds = Bounds(prompt=maximum)
        found = {tokenizer.fingerprint(): tuple(encode_prompts(records, tokenizer, bounds)) for tokenizer in self.all}
        own = encode_teacher_prompts(records, self.teacher, bounds)
        read = found[self.teacher.fingerprint()]
        teacher = tuple(ids if other is None else other for ids, other in zip(read, own, strict=True))
        return EncodedPrompts(by_tokenizer=found, teacher=() if all(ids is None for ids in own) else teacher)
