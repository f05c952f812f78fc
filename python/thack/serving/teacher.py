"""One model on one server, asked for responses and for the log-probabilities of given ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from thack.config import SamplingSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError
from thack.files import digest
from thack.serving.answers import Choice, PaddedError, check_choice, checked_entry
from thack.serving.client import Client
from thack.serving.dialects import Dialect, Question

_ASK_AGAIN = 2  # after an answer that cannot be used
_MORE_IDS = 32  # asked for where padded ids took the place of others


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
        return self._usable(sequence.prompt_id, question, self.dialect.generate)

    def score(self, sequence: TokenSequence) -> Choice:
        """The most likely ids of every token of the sequence's own response; raises as `respond`."""
        question = Question(model=self.model, prompt_ids=sequence.prompt_ids, k=self.k)

        def ask(client: Client, question: Question) -> Choice:
            return self.dialect.score(client, question, sequence.response_ids)

        return self._usable(sequence.prompt_id, question, ask)

    def next_token(self, prompt_ids: np.ndarray, sampling: SamplingSettings) -> Choice:
        """One token behind a prompt, whichever it is, with the most likely ids; raises as `respond`."""
        question = Question(model=self.model, prompt_ids=prompt_ids, k=self.k, sampling=sampling)
        return self._usable("of the probe", question, self.dialect.generate, _check_row)

    def _usable(
        self,
        prompt: str,
        question: Question,
        ask: Callable[[Client, Question], Choice],
        check: Callable[[Choice, int, int], Choice] = check_choice,
    ) -> Choice:
        for left in reversed(range(_ASK_AGAIN + 1)):
            try:
                return self._checked(question, ask, check)
            except DataError as error:
                if not left:
                    said = f"prompt {prompt}: {error.message}"
                    raise DataError(said, details=error.details, hint=error.hint) from error
                self.unusable += 1
                if isinstance(error, PaddedError):  # the same question has the same answer
                    seed, k = (
                        (question.seed + 1, question.k) if error.is_drawn else (question.seed, question.k + _MORE_IDS)
                    )
                    question = replace(question, seed=seed, k=k)
        raise AssertionError("the last attempt returns or raises")

    def _checked(
        self,
        question: Question,
        ask: Callable[[Client, Question], Choice],
        check: Callable[[Choice, int, int], Choice],
    ) -> Choice:
        try:
            return check(ask(self.client, question), self.k, self.tokenizer.size)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            problem = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"not an answer of a {self.dialect.name} server ({problem})", hint="say what it is: `server.dialect`"
            ) from error


def _check_row(choice: Choice, k: int, vocab_size: int) -> Choice:
    """As `check_choice`, of a row alone: a padded id may have been drawn, and others may be fewer than k."""
    return replace(choice, entries=[checked_entry(choice.entries[0], k, vocab_size, "response token 0")])
