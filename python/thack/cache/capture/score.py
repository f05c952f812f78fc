"""The teacher's side of a capture: batches of a plan, scored on the teacher's device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thack.cache.format.plan import Plan
from thack.cache.format.records import row_keys, select
from thack.config import CacheSettings
from thack.data.sequence import TokenSequence
from thack.errors import ModelError
from thack.generation.sampler import GenerationRequest, respond
from thack.models.batch import Batch
from thack.models.precision import Precision
from thack.runtime.progress import SILENT, Progress
from thack.targets.types import Target

if TYPE_CHECKING:
    from thack.models.protocol import LanguageModel

Numbered = tuple[int, TokenSequence]  # a sequence and its number in the cache


@dataclass(frozen=True, slots=True)
class Scored:
    """What was selected from one batch, perhaps still on its way off the device."""

    target: Target
    keys_N4: np.ndarray
    event: Any  # a CUDA event after the copy, or None

    def wait(self) -> None:
        if self.event is not None:
            self.event.synchronize()


class Scorer:
    """Runs the teacher over the batches of a plan."""

    def __init__(self, teacher: LanguageModel, plan: Plan, settings: CacheSettings) -> None:
        self._teacher = teacher.eval()
        self._plan = plan
        self._settings = settings
        self._precision = Precision(dtype=getattr(torch, plan.dtype))

    def batches(self, sequences: Sequence[Numbered]) -> Iterator[list[Numbered]]:
        """Batches of one shard: sorted by length, so that little is padding. Also the order of storage."""
        ordered = sorted(sequences, key=lambda item: (-len(item[1].prompt_ids) - len(item[1].response_ids), item[0]))
        size = self._plan.batch_size
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]

    def score(self, batch: Sequence[Numbered]) -> Scored:
        """Forward and selection; what is kept comes back on the CPU, pinned where it came from a GPU."""
        sequences = [s for _, s in batch]
        keys = row_keys(sequences, [s.example for s in sequences])
        with torch.inference_mode():
            with self._precision.autocast(self._teacher):
                logits_NV = self._teacher(Batch.of(sequences, self._teacher.device))
            device = logits_NV.device  # the last one's, of a teacher spread over several
            try:
                target = select(
                    logits_NV,
                    self._plan.layout,
                    seed=self._plan.seed,
                    keys_N4=torch.from_numpy(keys).to(device),
                )
            except ModelError as error:
                raise _named(error, sequences) from error
            if device.type != "cuda":
                return Scored(target.to("cpu"), keys, None)
            return _off_the_gpu(target, keys, device)

    def write_responses(self, sequences: Sequence[Numbered], progress: Progress = SILENT) -> list[Numbered]:
        """The teacher's own responses to a shard's prompts, by numbers that only seed and prompt decide."""
        settings = self._settings
        request = GenerationRequest(
            sampling=settings.sampling,
            max_new_tokens=settings.data.max_response_tokens,
            seed=settings.seed,
            precision=self._precision,
        )
        written: list[Numbered] = []
        for sample in range(self._plan.samples):
            group = [item for item in sequences if item[1].sample == sample]
            if not group:
                continue
            prompts = [s for _, s in group]
            found = respond(self._teacher, prompts, request, samples=sample, progress=progress)
            written += zip([i for i, _ in group], found, strict=True)
        return written


def _off_the_gpu(target: Target, keys: np.ndarray, device: torch.device) -> Scored:
    """Start the copy into pinned memory; whoever packs waits for it, the teacher goes on.

    The copy runs on the current stream of the tensors' device, and so does the next batch: what it frees on the
    GPU is reused behind the copy, and pinned memory once nothing of it is in flight. The event is recorded on that
    stream by name, since the current device may be another (cuda:0, where the teacher is on cuda:1).
    """
    fields = {field.name: _pinned(getattr(target, field.name)) for field in dataclasses.fields(target)}
    copied = dataclasses.replace(target, **fields)
    event: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return Scored(copied, keys, event)


def _pinned(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _start_copy(value)
    if isinstance(value, Mapping):
        return {key: _pinned(item) for key, item in value.items()}
    return value


def _start_copy(value: torch.Tensor) -> torch.Tensor:
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)


def _named(error: ModelError, sequences: Sequence[TokenSequence]) -> ModelError:
    names = ", ".join(s.prompt_id for s in sequences[:4]) + (", …" if len(sequences) > 4 else "")
    return ModelError(
        error.message,
        details=[*error.details, f"in a batch of {len(sequences)} sequences: {names}"],
        hint=error.hint or "check the teacher's weights, or use `dtype = float32`",
    )
