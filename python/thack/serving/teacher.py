"""One model on one server, asked for responses and for the log-probabilities of given ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from thack.config import SamplingSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError
from thack.files import digest
from thack.serving.answers import Choice, check_choice
from thack.serving.client import Client
from thack.serving.dialects import Dialect, Question

_ASK_AGAIN = 2  # after an answer that cannot be used


class RemoteTeacher:
    """A teacher behind a server. Several threads may ask it.

    Args:
        client: of the server.
        dialect: what the server speaks.
        model: its name there.
        tokenizer: of the model.
        k: ids per token.
    """

    def __init__(self, client: Client, dialect: Dialect, model: str, tokenizer: Tokenizer, k: int) -> None:
        self.client, self.dialect, self.model, self.tokenizer, self.k = client, dialect, model, tokenizer, k
        self.unusable = 0  # answers that were asked for again, to report

    def respond(self, sequence: TokenSequence, sampling: SamplingSettings, max_new_tokens: int, seed: int) -> Choice:
        """A new response to a prompt; its seed depends on `seed`, prompt and sample alone.

        Raises:
            DataError: the server's answers cannot be used; names the prompt.
            ServerError: it gives none.
        """
        name = f"{seed} {sequence.example} {sequence.sample}"
        question = Question(
            model=self.model,
            prompt_ids=sequence.prompt_ids,
            k=self.k,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=int(digest(name.encode())[7:15], 16),
        )
        return self._usable(sequence.prompt_id, lambda: self.dialect.generate(self.client, question))

    def score(self, sequence: TokenSequence) -> Choice:
        """The most likely ids of every token of the sequence's own response; raises as `respond`."""
        question = Question(model=self.model, prompt_ids=sequence.prompt_ids, k=self.k)
        ask = self.dialect.score
        return self._usable(sequence.prompt_id, lambda: ask(self.client, question, sequence.response_ids))

    def next_token(self, prompt_ids: np.ndarray, sampling: SamplingSettings) -> Choice:
        """One token behind a prompt, with the most likely ids; raises as `respond`."""
        question = Question(model=self.model, prompt_ids=prompt_ids, k=self.k, sampling=sampling)
        return self._usable("of the probe", lambda: self.dialect.generate(self.client, question))

    def _usable(self, prompt: str, ask: Callable[[], Choice]) -> Choice:
        for _ in range(_ASK_AGAIN):
            try:
                return self._checked(ask)
            except DataError:
                self.unusable += 1
        try:
            return self._checked(ask)
        except DataError as error:
            raise DataError(f"prompt {prompt}: {error.message}", details=error.details, hint=error.hint) from error

    def _checked(self, ask: Callable[[], Choice]) -> Choice:
        try:
            return check_choice(ask(), self.k, self.tokenizer.size)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            problem = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"not an answer of a {self.dialect.name} server ({problem})", hint="say what it is: `server.dialect`"
            ) from error
