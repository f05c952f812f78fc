"""Two fixed sets on training prompts, for the detectors that need no oracle.

    train_kl/monitor   the responses that an offline student trains on: from the cache or the data; where all are
                       written afresh, what the teacher would have written for an offline run
    train_kl/fresh     other responses of the teacher to the same prompts, never trained on

Memorisation drives the first down and leaves the second and the held-out proxy behind.
"""

from __future__ import annotations

import numpy as np

from thack.data.sequence import TokenSequence, repeats
from thack.evaluation.monitor import FixedKL
from thack.generation.sampler import GenerationRequest, respond
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.schema.metrics import TrainingKL
from thack.targets.keys import MONITOR_SAMPLE, Stream
from thack.training.data import LiveTargets, TrainingData
from thack.training.plan import Plan, shuffled

_PROMPTS = 256


def training_monitors(
    teacher: LanguageModel,
    request: GenerationRequest,
    width: int,
    training_data: TrainingData,
    plan: Plan,
    group: ProcessGroup,
) -> dict[str, FixedKL]:
    """Both sets; the same for every restart, since nothing in them depends on the student.

    `request` is what `generate` would be asked for at temperature 1. The distances are in float32.
    """
    positions = np.sort(shuffled(len(training_data), plan.seed, 0, stream=Stream.MONITORS)[:_PROMPTS])
    if isinstance(training_data, LiveTargets) and training_data.keeps_responses:
        prompts = [training_data.data[i] for i in positions]
        trained = respond(teacher, prompts, request, samples=-repeats(prompts), group=group)
    else:
        trained = prompts = training_data.sequences(positions, 0)
    fresh = respond(teacher, prompts, request, samples=MONITOR_SAMPLE - repeats(prompts), group=group)
    sets: dict[str, list[TokenSequence]] = {TrainingKL.MONITOR: trained, TrainingKL.FRESH: fresh}
    return {name: FixedKL(sequences, teacher, width, group=group) for name, sequences in sets.items()}
