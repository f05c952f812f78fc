"""Two fixed sets of responses to training prompts, for the detectors that need no oracle.

    train_kl/monitor   the responses that an offline student trains on, from the cache or the data. In an online run:
                       those that the teacher would have written for an offline one
    train_kl/fresh     other responses of the teacher to the same prompts, never trained on

Memorisation lowers the first and leaves the second, and the held-out proxy, behind. For a student with another
tokenizer both are distances between cells, in nats per row where a token of both begins (`evaluation/cell_monitor.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from thack.cache import Cache
from thack.data.sequence import TokenSequence, repeats
from thack.evaluation.monitor import RecordedKL, TrainingDistance
from thack.generation.accepted import Accepts, SampledAgain, respond_accepted
from thack.generation.sampler import GenerationRequest
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.schema.metric_rows import PromptSums
from thack.schema.metrics import TrainingKL
from thack.schema.run import Costs, Order
from thack.targets.keys import MONITOR_SAMPLE, Stream
from thack.training.data import CachedTargets, LiveTargets, TrainingData
from thack.training.order import Permutation

PROMPTS = 256


def recorded(caches: Sequence[Cache], width: int, group: ProcessGroup) -> list[RecordedKL]:
    """What is measured by each of several caches, on sequences that are spread over it; nothing of a single one."""
    found = []
    for cache in caches if len(caches) > 1 else ():
        positions = np.linspace(0, len(cache) - 1, min(PROMPTS, len(cache))).astype(int)
        sequences = [cache.sequences(int(i)) for i in positions]
        target = partial(CachedTargets(cache, width).target, epoch=0)
        found.append(RecordedKL(sequences=sequences, target=target, group=group))
    return found


class TrainingMonitors:
    """KL(teacher‖student) on both sets, in nats per token and float32.

    The sets are sampled at the first measurement. They are the same after every restart, since nothing in them depends
    on the student.
    """

    def __init__(
        self,
        teacher: LanguageModel,
        request: GenerationRequest,
        data: TrainingData,
        *,
        distance: Callable[[Sequence[TokenSequence]], TrainingDistance],
        group: ProcessGroup,
        order: Order,
        accepts: Accepts | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """`request` is that of an offline run's responses; `distance`: measures on responses of the teacher's.

        `order`: of the run's sequences, and so of its prompts here. `accepts`: whether a new response can be used.
        """
        self._teacher, self._request, self._data = teacher, request, data
        self._distance, self._group, self._order = distance, group, order
        self._accepts, self._progress = accepts, progress
        self._sets: dict[TrainingKL, TrainingDistance] = {}
        self._generated_tokens = 0
        self._again = SampledAgain(progress, "fresh responses")

    def measure(self, student: LanguageModel) -> dict[TrainingKL, PromptSums]:
        """Sums over the sequences of each set, in an order that does not change."""
        if not self._sets:
            with self._progress.task("writing fresh responses", None):
                responses = self._responses()
            self._sets = {name: self._distance(sequences) for name, sequences in responses.items()}
        return {name: monitor.measure(student) for name, monitor in self._sets.items()}

    def costs(self) -> Costs:
        """Of both sets so far, in this process and on all ranks."""
        own = sum(monitor.scored_tokens for monitor in self._sets.values())
        (scored,) = self._group.all_reduce_sum(own)
        return Costs(evaluation_generated_tokens=self._generated_tokens, evaluation_scored_tokens=int(scored))

    def _responses(self) -> dict[TrainingKL, list[TokenSequence]]:
        data, request = self._data, self._request
        every = Permutation(count=len(data), seed=request.seed, stream=Stream.MONITORS, epoch=0, order=self._order)
        positions = np.sort(every.at(np.arange(min(PROMPTS, len(data)))))
        if isinstance(data, LiveTargets) and data.keeps_responses:
            prompts = [data.data[i] for i in positions]
            trained = self._sampled(prompts, -repeats(prompts))
            self._generated_tokens += sum(len(s.response_ids) for s in trained)
        else:
            trained = prompts = data.sequences(positions, 0)
        samples = MONITOR_SAMPLE - repeats(prompts)
        new = self._sampled(prompts, samples)
        self._generated_tokens += sum(len(s.response_ids) for s in new)
        return {TrainingKL.MONITOR: trained, TrainingKL.FRESH: new}

    def _sampled(self, prompts: Sequence[TokenSequence], samples: np.ndarray) -> list[TokenSequence]:
        found, again = respond_accepted(
            self._teacher,
            prompts,
            self._request,
            samples=samples,
            accepts=self._accepts,
            group=self._group,
            as_teacher=True,
        )
        self._again.add(again)
        return found
