"""Responses that pass a test: those that do not are sampled again, a few times, by random numbers of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from thack.data.sequence import TokenSequence
from thack.errors import DataError
from thack.generation.sampler import GenerationRequest, respond
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.targets.keys import further_try

Accepts: TypeAlias = Callable[[TokenSequence], bool]
_TRIES = 8


class SampledAgain:
    """Counts the responses in whose place others were sampled, and says so whenever their number has doubled.

    Args:
        progress: is told.
        what: which responses.
    """

    def __init__(self, progress: Progress = SILENT, what: str = "responses") -> None:
        self._progress, self._what = progress, what
        self.count = 0

    def add(self, count: int) -> None:
        """Count some more."""
        before, self.count = self.count, self.count + count
        if self.count.bit_length() > before.bit_length():
            self._progress.note(
                f"warning: {self.count} {self._what} so far begin with a control token, or hold bytes that the "
                "student's tokenizer cannot write: others are sampled in their place"
            )


def respond_accepted(
    model: LanguageModel,
    prompts: Sequence[TokenSequence],
    request: GenerationRequest,
    *,
    samples: np.ndarray,
    accepts: Accepts | None,
    group: ProcessGroup = ALONE,
    as_teacher: bool = False,
) -> tuple[list[TokenSequence], int]:
    """`respond`, and how many responses were sampled again.

    Args:
        model: writes.
        prompts: one response each.
        request: how to sample.
        samples: int64 per prompt, as of `respond`.
        accepts: the test; None: every response passes.
        group: the ranks that share the work.
        as_teacher: as of `respond`.

    Returns:
        The responses, under the numbers of `samples`.

    Raises:
        DataError: eight responses to a prompt do not pass.
    """
    found = respond(model, prompts, request, samples=samples, group=group, as_teacher=as_teacher)
    refused = [i for i, s in enumerate(found) if accepts is not None and not accepts(s)]
    again = 0
    for number in range(1, _TRIES):
        if not refused:
            break
        again += len(refused)
        asked, names = [prompts[i] for i in refused], further_try(samples[refused], number)
        new = respond(model, asked, request, samples=names, group=group, as_teacher=as_teacher)
        for i, s in zip(refused, new, strict=True):
            found[i] = s.with_response(s.response_ids, int(samples[i]))
        refused = [i for i in refused if accepts is not None and not accepts(found[i])]
    if refused:
        raise DataError(
            f"prompt {prompts[refused[0]].prompt_id}: none of {_TRIES} sampled responses can be written with the "
            "student's tokenizer",
            details=("each begins with a control token, or holds bytes that the tokenizer does not give back",),
            hint="take the prompt out of the data, or use a student with the teacher's tokenizer",
        )
    return found, again
