"""Two fixed sets on training prompts, for the detectors that need no oracle.

    train_kl/monitor   the responses that an offline student trains on: from the cache or the data; where all are
                       written afresh, what the teacher would have written for an offline run
    train_kl/fresh     other responses of the teacher to the same prompts, never trained on

Memorisation drives the first down and leaves the second and the held-out proxy behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thack.config import DistillSettings, SamplingSettings
from thack.data.sequence import TokenSequence, repeats
from thack.evaluation.monitor import FixedKL
from thack.generation.sampler import GenerationRequest, generate
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.schema.metrics import TrainingKL
from thack.training.data import LiveTargets, TrainingData
from thack.training.plan import Plan, shuffled

_PROMPTS = 256
_SAMPLE = (1 << 32) - 1  # the `sample` word of fresh responses: no training response is drawn under it


def training_monitors(
    settings: DistillSettings,
    teacher: LanguageModel,
    width: int,
    training_data: TrainingData,
    plan: Plan,
    group: ProcessGroup,
) -> dict[str, FixedKL]:
    """Both sets; the same for every restart, since nothing in them depends on the student."""
    positions = np.sort(shuffled(len(training_data), plan.seed, 0, stream=3)[:_PROMPTS])
    if isinstance(training_data, LiveTargets) and training_data.keeps_responses:
        prompts = [training_data.data[i] for i in positions]
        trained = _written(teacher, prompts, settings, group, sample=0)
    else:
        trained = prompts = training_data.sequences(positions, 0)
    fresh = _written(teacher, prompts, settings, group, sample=_SAMPLE)
    sets: dict[str, list[TokenSequence]] = {TrainingKL.MONITOR: trained, TrainingKL.FRESH: fresh}
    return {name: FixedKL(sequences, teacher, width, group=group) for name, sequences in sets.items()}


def _written(
    teacher: LanguageModel,
    prompts: Sequence[TokenSequence],
    settings: DistillSettings,
    group: ProcessGroup,
    *,
    sample: int,
) -> list[TokenSequence]:
    """Responses of the teacher at temperature 1, by a fixed seed."""
    samples = sample - repeats(prompts)
    request = GenerationRequest(
        sampling=SamplingSettings(), max_new_tokens=settings.data.max_response_tokens, seed=settings.seed
    )
    responses = generate(
        teacher,
        [s.prompt_ids for s in prompts],
        request,
        examples=[s.example for s in prompts],
        samples=samples,
        group=group,
    )
    return [s.with_response(ids, int(n)) for s, ids, n in zip(prompts, responses, samples, strict=True)]
