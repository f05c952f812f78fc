"""The teacher's side of a capture: batches of a plan, scored on the teacher's device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from thack.cache.format.plan import CachePlan
from thack.config import CacheSettings
from thack.data.batching import by_length
from thack.data.lengths import response_limit
from thack.data.sequence import TokenSequence
from thack.errors import ModelError
from thack.generation.sampler import GenerationRequest, respond
from thack.models.batch import Batch
from thack.models.precision import Precision
from thack.models.protocol import LanguageModel
from thack.runtime.progress import SILENT, Progress
from thack.targets.frozen_head import FrozenHead
from thack.targets.keys import row_keys
from thack.targets.projected import teacher_logits
from thack.targets.select import select
from thack.targets.types import Target


@dataclass(frozen=True, slots=True)
class Scored:
    """What was selected from one batch. Its tensors may still be copied from the device: call `wait` first."""

    target: Target
    keys_N4: Tensor  # on the CPU
    event: torch.cuda.Event | None  # recorded after the copy from a GPU

    def wait(self) -> None:
        """Return once the copy is complete."""
        if self.event is not None:
            self.event.synchronize()


class Scorer:
    """Runs the teacher over the batches of a plan."""

    def __init__(
        self, teacher: LanguageModel, plan: CachePlan, settings: CacheSettings, head: FrozenHead | None = None
    ) -> None:
        """`head`: of the student, for projected targets."""
        self._head = head
        self._teacher = teacher.eval()
        self._plan = plan
        self._settings = settings
        self._precision = Precision(dtype=getattr(torch, plan.dtype))

    def batches(self, sequences: Sequence[TokenSequence]) -> Iterator[list[TokenSequence]]:
        """Batches of one shard, longest sequences first, so that little is padding; also the order in the file.

        `sequences` are in ascending order of position, and sequences of equal length stay in it.
        """
        return by_length(sequences, self._plan.batch_size, longest_first=True)

    def score(self, sequences: Sequence[TokenSequence]) -> Scored:
        """Run the teacher on one batch and select its targets. They are on the CPU, pinned if copied from a GPU."""
        layout = self._plan.layout
        for s in sequences:
            _check_ids(s, layout.vocab_size)
        keys_N4, batch = row_keys(sequences), Batch.of(sequences, self._teacher.device).for_teacher()
        with torch.inference_mode():
            logits_NV = teacher_logits(self._teacher, batch, self._precision)
            device = logits_NV.device  # the last one, if the teacher is on several
            try:
                target = select(
                    logits_NV,
                    layout.spec,
                    width=layout.vocab_size,
                    seed=self._plan.seed,
                    keys_N4=keys_N4,
                    labels_N=batch.labels_N,
                    head=self._head,
                )
            except ModelError as error:
                raise _named(error, sequences) from error
            if device.type != "cuda":
                return Scored(target.to("cpu"), keys_N4, None)
            return _off_the_gpu(target, keys_N4, device)

    def generate_responses(
        self, sequences: Sequence[TokenSequence], progress: Progress = SILENT
    ) -> list[TokenSequence]:
        """The sequences with responses that the teacher generates; random numbers depend on seed and prompt alone."""
        settings = self._settings
        request = GenerationRequest(
            sampling=settings.sampling,
            max_new_tokens=response_limit(settings.data),
            seed=settings.seed,
            precision=self._precision,
        )
        responses: dict[int | None, np.ndarray] = {}
        for sample in range(self._plan.samples):
            group = [s for s in sequences if s.sample == sample]
            if not group:
                continue
            generated = respond(self._teacher, group, request, samples=sample, progress=progress, as_teacher=True)
            responses |= {given.position: s.response_ids for given, s in zip(group, generated, strict=True)}
        return [replace(s, response_ids=responses[s.position]) for s in sequences]


def _off_the_gpu(target: Target, keys_N4: Tensor, device: torch.device) -> Scored:
    """Start the copy into pinned memory. The packer waits for it, while the teacher scores the next batch.

    The copy runs on the current stream of the tensors' device, and so does the next batch. So GPU memory of these
    tensors is reused only after the copy. The event is recorded on that stream explicitly, since the current device
    may be another one (cuda:0, while the teacher is on cuda:1).
    """
    copied = target.map(_start_copy)
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return Scored(copied, keys_N4, event)


def _start_copy(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)


def _named(error: ModelError, sequences: Sequence[TokenSequence]) -> ModelError:
    names = ", ".join(s.prompt_id for s in sequences[:4]) + (", …" if len(sequences) > 4 else "")
    return ModelError(
        error.message,
        details=[*error.details, f"in a batch of {len(sequences)} sequences: {names}"],
        hint=error.hint or "check the teacher's weights, or use `dtype = float32`",
    )


def _check_ids(s: TokenSequence, vocab_size: int) -> None:
    least, most = int(s.response_ids.min()), int(s.response_ids.max())
    if least < 0 or most >= vocab_size:
        raise ModelError(
            f"prompt {s.prompt_id}: its response has an id outside the teacher's vocabulary",
            details=[f"id         {least if least < 0 else most}", f"vocabulary {vocab_size}"],
            hint="encode the responses with this teacher's tokenizer",
        )
