"""Who wrote the response, and when: offline (once), or online (afresh every epoch) by teacher or student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from thack.config.settings import SamplingSettings
from thack.data.sequence import TokenSequence, repeats
from thack.errors import UsageError
from thack.generation.sampler import generate
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ALONE, ProcessGroup


class ResponseSource(Protocol):
    """Responses to the prompts of a data set, by position."""

    @property
    def generated_tokens(self) -> int:
        """Response tokens written so far: the cost of being online."""

    def __len__(self) -> int:
        """Positions in the data set."""

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        """The responses to train on in `epoch`, in the order of `positions`."""


class Offline:
    """Responses written once and used in every epoch."""

    generated_tokens = 0

    def __init__(self, sequences: Sequence[TokenSequence]) -> None:
        self._sequences = list(sequences)

    def __len__(self) -> int:
        return len(self._sequences)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        return [self._sequences[i] for i in positions]


class Online:
    """Responses written when they are asked for, by a live model: the teacher, or the student as it is then.

    The numbers of a draw depend on (seed, epoch, prompt, sample) alone, so the teacher's response to a prompt
    in an epoch is the same for any batch size, rank count or resume point.
    """

    def __init__(
        self,
        writer: LanguageModel,
        prompts: Sequence[TokenSequence],
        *,
        max_new_tokens: int,
        sampling: SamplingSettings,
        seed: int,
        batch_size: int = 256,
        group: ProcessGroup = ALONE,
    ) -> None:
        self._writer = writer
        self._prompts = list(prompts)
        self._samples = repeats(self._prompts)  # a prompt that occurs twice gets two responses
        self._max_new_tokens = max_new_tokens
        self._sampling = sampling
        self._seed = seed
        self._batch_size = batch_size
        self._team = group
        self.generated_tokens = 0

    def __len__(self) -> int:
        return len(self._prompts)

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        asked = [self._prompts[i] for i in positions]
        if not asked:
            return []
        responses = generate(
            self._writer,
            [s.prompt_ids for s in asked],
            examples=[s.example for s in asked],
            max_new_tokens=self._max_new_tokens,
            sampling=self._sampling,
            seed=self._seed,
            sample=self._samples[positions],
            epoch=epoch + 1,  # epoch 0 is what `generate` writes: the offline responses
            batch_size=self._batch_size,
            group=self._team,
        )
        self.generated_tokens += sum(len(ids) for ids in responses)
        return [s.with_response(ids, s.sample) for s, ids in zip(asked, responses, strict=True)]


class Mixture:
    """A fixed share of fresh responses: in every epoch round(fraction · n) positions are online, and over E
    epochs each position is online ⌊fraction · E⌋ or ⌈fraction · E⌉ times.

    Position i has the phase u_i = (place of i in a random order + ½) / n, and is online in epoch e where
    ⌊(e+1) · fraction + u_i⌋ > ⌊e · fraction + u_i⌋: a pure function that every rank agrees on.
    """

    def __init__(self, offline: ResponseSource, online: ResponseSource, *, fraction: float, seed: int) -> None:
        if not 0 <= fraction <= 1:
            raise UsageError(f"source.online_fraction = {fraction} must lie between 0 and 1")
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
        """bool per position: whether its response is written afresh in `epoch`."""
        phase = self._phase_N[positions]
        before, after = epoch * self._fraction + phase, (epoch + 1) * self._fraction + phase
        found: np.ndarray = np.floor(after) > np.floor(before)
        return found

    def sequences(self, positions: np.ndarray, epoch: int) -> list[TokenSequence]:
        fresh = self.is_online(positions, epoch)
        found: dict[int, TokenSequence] = {}
        for source, mine in ((self._online, positions[fresh]), (self._offline, positions[~fresh])):
            found |= {int(i): s for i, s in zip(mine, source.sequences(mine, epoch), strict=True)}
        return [found[int(i)] for i in positions]


class Growing:
    """Given responses and those that join them on the way: nothing is thrown away.

    From the epoch in which a set joins, every position takes one of the sets so far, evenly, by a number that
    (seed, epoch, position) alone decides; in its first epoch a set is used whole, for what is new teaches most.
    """

    def __init__(
        self,
        given: ResponseSource,
        write: Callable[[int, int], Sequence[TokenSequence]],  # (number, epoch) → one response per position
        joins: Sequence[int],  # epoch in which set 0, 1, … joins, ascending
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
        """Per position: 0 for the given response, n for set n − 1."""
        num_sets, num_new = self._num_joined(epoch), sum(1 for join in self._joins if join == epoch)
        words = np.random.Philox(key=self._seed, counter=[0, 0, epoch, 4]).random_raw(len(self))
        first = num_sets + 1 - num_new if num_new else 0
        # A product instead of a remainder, in the top half of the word: even for any number of sets.
        picked = (words >> np.uint64(32)) * np.uint64(num_sets + 1 - first) >> np.uint64(32)
        return first + picked.astype(np.int64)
