"""Response sources: who wrote a response, and when.

Offline responses were written once and are used in every epoch. Online responses are newly sampled in every epoch, by
the teacher or by the student (on-policy).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from thack.data.batching import by_length
from thack.data.eos import EndCounts
from thack.data.sequence import TokenSequence, repeats
from thack.errors import UsageError
from thack.generation.accepted import Accepts, SampledAgain, respond_accepted
from thack.generation.sampler import GenerationRequest
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel, evaluating
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.targets.keys import Stream, run_words, training_epoch
from thack.targets.realised import scored_log_probs

_ENOUGH = 64  # responses, before their ends are judged


class ResponseSource(Protocol):
    """Responses to the prompts of a data set, by position in it."""

    @property
    def generated_tokens(self) -> int:
        """Response tokens sampled so far."""

    def __len__(self) -> int:
        """Number of positions in the data set."""

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        """The responses to train on in `epoch`, in the order of `positions`."""


class Offline:
    """Responses written once and used in every epoch."""

    generated_tokens = 0

    def __init__(self, sequences: Sequence[TokenSequence]) -> None:
        self._sequences = sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return [self._sequences[i] for i in positions]


class Online:
    """Responses that a live model samples when they are asked for: the teacher, or the student as it is then.

    Random numbers depend on (seed, epoch, example, sample) alone. So the teacher's response to a prompt in an epoch is
    the same for any batch size, number of ranks or resume point.

    Args:
        writer: samples the responses.
        prompts: by position in the data set; their responses are not used.
        request: how to sample; its epoch is replaced.
        group: the ranks that share the work.
        scored_width: ids over which the writer's log-probability of each token is kept; 0: it is not.
        progress: is told once if many responses reach the maximum length.
        by_teacher: the writer reads the prompts that the teacher alone reads.
        accepts: whether a response can be used; another one is sampled in place of one that cannot.
    """

    def __init__(
        self,
        writer: LanguageModel,
        prompts: Sequence[TokenSequence],
        request: GenerationRequest,
        group: ProcessGroup = ALONE,
        progress: Progress = SILENT,
        *,
        scored_width: int = 0,
        by_teacher: bool = False,
        accepts: Accepts | None = None,
    ) -> None:
        self._accepts = accepts
        self._scored_width = scored_width
        self._by_teacher = by_teacher
        self._writer = writer
        self._prompts = prompts
        self._samples = repeats(self._prompts)  # a prompt that occurs twice gets two responses
        self._request = request
        self._group = group
        self._progress = progress
        self._is_warned = False
        self.ends = EndCounts()  # how the responses so far ended
        self.generated_tokens = 0
        self.sampled_again = SampledAgain(progress)

    def __len__(self) -> int:
        return len(self._prompts)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        asked = [self._prompts[i] for i in positions]
        if not asked:
            return []
        request = replace(self._request, epoch=training_epoch(epoch))
        samples, group = self._samples[positions], self._group
        found, again = respond_accepted(
            self._writer,
            asked,
            request,
            samples=samples,
            accepts=self._accepts,
            group=group,
            as_teacher=self._by_teacher,
        )
        self.sampled_again.add(again)
        self.generated_tokens += sum(len(s.response_ids) for s in found)
        self._count_ends(found)
        found = [replace(s, sample=given.sample) for s, given in zip(found, asked, strict=True)]
        return self._scored(found) if self._scored_width else found

    def _scored(self, found: Sequence[TokenSequence]) -> list[TokenSequence]:
        """With the log-probability of each token under its writer, batch by batch, shared among the ranks."""
        scored: list[TokenSequence] = []
        with evaluating(self._writer):
            for number, part in enumerate(by_length(found, self._request.batch_size)):
                if self._group.owns(number):
                    batch = Batch.of(part, self._writer.device)
                    batch = batch.for_teacher() if self._by_teacher else batch
                    log_q_N = scored_log_probs(self._writer, batch, self._scored_width, self._request.precision)
                    split = log_q_N.float().cpu().split([len(s.response_ids) for s in part])
                    scored += [replace(s, log_probs=row_R.numpy()) for s, row_R in zip(part, split, strict=True)]
        by_name = {(s.example, s.sample): s.log_probs for s in self._group.all_gather(scored)}
        return [replace(s, log_probs=by_name[s.example, s.sample]) for s in found]

    def _count_ends(self, found: Sequence[TokenSequence]) -> None:
        self.ends += EndCounts.of_sequences(found, self._writer.tokenizer.ends, maximum=self._request.max_new_tokens)
        if self.ends.responses >= _ENOUGH and not self._is_warned:
            for warning in self.ends.warnings():
                self._is_warned = True
                self._progress.note(f"warning: {warning}")


class Mixture:
    """A fixed share of the responses is newly sampled in each epoch.

    In every epoch round(fraction · n) positions are online. Over E epochs each position is online ⌊fraction · E⌋ or
    ⌈fraction · E⌉ times. Position i has the phase u_i = (rank of i in a random order + ½) / n, and is online in epoch e
    where ⌊(e+1) · fraction + u_i⌋ > ⌊e · fraction + u_i⌋. Every rank computes the same.

    Args:
        offline: the given responses, one per prompt.
        online: samples the new ones, for the same prompts.
        fraction: share of online positions, between 0 and 1.
        seed: of the random order.

    Raises:
        UsageError: `fraction` is outside [0, 1], or the two sources differ in length.
    """

    def __init__(self, offline: ResponseSource, online: ResponseSource, *, fraction: float, seed: int) -> None:
        if not 0 <= fraction <= 1:
            raise UsageError(f"source.online_fraction = {fraction}: must be between 0 and 1")
        if len(offline) != len(online):
            raise UsageError(
                "a mixture needs one offline response per prompt",
                details=[f"offline  {len(offline):,} responses", f"online   {len(online):,} prompts"],
            )
        self._offline, self._online = offline, online
        self._fraction = fraction
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(offline))
        self._phase_N = (order + 0.5) / len(offline)

    @property
    def generated_tokens(self) -> int:
        return self._online.generated_tokens

    def __len__(self) -> int:
        return len(self._offline)

    def is_online(self, positions: np.ndarray, epoch: int) -> np.ndarray:
        """bool per position: whether its response is newly sampled in `epoch`."""
        phase = self._phase_N[positions]
        before, after = epoch * self._fraction + phase, (epoch + 1) * self._fraction + phase
        found: np.ndarray = np.floor(after) > np.floor(before)
        return found

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        online = self.is_online(positions, epoch)
        found: dict[int, TokenSequence] = {}
        for source, chosen in ((self._online, positions[online]), (self._offline, positions[~online])):
            found |= {int(i): s for i, s in zip(chosen, source.sequences(chosen, epoch), strict=True)}
        return [found[int(i)] for i in positions]


class Growing:
    """Given responses, and sets of new ones that join them during training. No set is removed.

    In the epoch in which a set joins, every position uses it, since new responses teach most. Later every position
    uses one of the sets so far, with equal probability, by a random number of (seed, epoch, position).

    Args:
        given: the responses at the start.
        write: samples a set: (number of the set, epoch in which it joins) → one response per position.
        joins: the epoch in which set 0, 1, … joins, each later than the one before.
        seed: of the choice.
    """

    def __init__(
        self,
        given: ResponseSource,
        write: Callable[[int, int], Sequence[TokenSequence]],
        joins: Sequence[int],
        *,
        seed: int,
    ) -> None:
        self._given, self._write, self._joins, self._seed = given, write, tuple(joins), seed
        self._sets: list[Sequence[TokenSequence]] = []
        self.generated_tokens = 0

    def __len__(self) -> int:
        return len(self._given)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        while len(self._sets) < self._num_joined(epoch):
            number = len(self._sets)
            self._sets.append(self._write(number, self._joins[number]))
        choice = self._choice(epoch)[positions]
        given = iter(self._given.sequences(positions[choice == 0], epoch))
        return [self._sets[c - 1][i] if c else next(given) for c, i in zip(choice, positions, strict=True)]

    def _num_joined(self, epoch: int) -> int:
        return sum(1 for join in self._joins if join <= epoch)

    def _choice(self, epoch: int) -> np.ndarray:
        """int64 per position: 0 for the given response, n for set n − 1."""
        num_sets = self._num_joined(epoch)
        if epoch in self._joins:
            return np.full(len(self), num_sets)
        random = run_words(self._seed, Stream.RESPONSE_SETS, epoch, count=len(self))
        # The top 32 bits times the number of sets: nearly uniform, which a remainder would not be.
        picked = (random >> np.uint64(32)) * np.uint64(num_sets + 1) >> np.uint64(32)
        return picked.astype(np.int64)
