"""What a student is compared with: the models, by role, and the responses that people wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from thack.data.tokenizer import Tokenizer
from thack.models.load import as_language_model
from thack.models.protocol import LanguageModel
from thack.schema.metrics import Role

#: A model of thack's, a plain transformers model, a directory, or a name on the hub.
ModelLike: TypeAlias = Any
#: A tokenizer of thack's, transformers' fast one, or a directory; None for models that know theirs.
TokenizerLike: TypeAlias = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The models in their roles. Iteration gives those that are there, with their role, the oracle first.

    Attributes:
        oracle: The model that is right by definition: the reference of golden.
        teacher: The model that the student imitates: the reference of the proxy.
        judge: A stronger model in the oracle's place, where there is no oracle.
        human: Whether responses that people wrote are a reference too. They come from the evaluation set's file.

    Example:
        >>> list(References(human=True))
        []
    """

    oracle: LanguageModel | None = None
    teacher: LanguageModel | None = None
    judge: LanguageModel | None = None
    human: bool = False

    @classmethod
    def of(
        cls,
        *,
        oracle: ModelLike = None,
        teacher: ModelLike = None,
        judge: ModelLike = None,
        human: bool = False,
        tokenizer: TokenizerLike = None,
    ) -> References:
        """References from models of any library.

        Args:
            oracle: A model of thack's, a plain transformers model, a directory, or a name on the hub.
            teacher: The same.
            judge: The same.
            human: Whether responses that people wrote are a reference too.
            tokenizer: For transformers models that do not know theirs.

        Raises:
            UsageError: what is given cannot play its role.
        """
        given = {"oracle": oracle, "teacher": teacher, "judge": judge}
        models = {
            role: as_language_model(model, tokenizer, role=role) for role, model in given.items() if model is not None
        }
        return cls(**models, human=human)

    def __iter__(self) -> Iterator[tuple[Role, LanguageModel]]:
        given = ((Role.ORACLE, self.oracle), (Role.TEACHER, self.teacher), (Role.JUDGE, self.judge))
        return ((role, model) for role, model in given if model is not None)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The first model's; None without a model."""
        return next(iter(self.tokenizers), None)

    @property
    def tokenizers(self) -> list[Tokenizer]:
        """Of every model; those after the first may be others."""
        return [model.tokenizer for _, model in self]
