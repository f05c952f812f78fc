"""Two fixed sets on training prompts, for the detectors that need no oracle.

    train_kl/monitor   the responses that the student trains on (of the first epoch, if they are written afresh)
    train_kl/fresh     other responses of the teacher to the same prompts, never trained on

Memorisation drives the first down and leaves the second and the held-out proxy behind.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thack.config.settings import DistillSettings, SamplingSettings
from thack.metrics.monitor import FixedKL
from thack.models.protocol import LanguageModel
from thack.responses.sampler import generate
from thack.targets import TokenSequence
from thack.training.material import Material
from thack.training.plan import Plan, shuffled

MONITOR, FRESH = "train_kl/monitor", "train_kl/fresh"
_PROMPTS = 256
_SAMPLE = (1 << 32) - 1  # the `sample` word of fresh responses: no training response is drawn under it


def training_monitors(
    settings: DistillSettings, teacher: LanguageModel, width: int, material: Material, plan: Plan
) -> dict[str, FixedKL]:
    """Both sets; the same for every restart, since nothing in them depends on the student."""
    positions = np.sort(shuffled(len(material), plan.seed, 0, stream=3)[:_PROMPTS])
    trained = material.monitor_sequences(positions)
    responses = generate(
        teacher,
        [s.prompt_ids for s in trained],
        indices=np.array([s.index for s in trained]),
        max_new_tokens=settings.data.max_response_tokens,
        sampling=SamplingSettings(),
        seed=settings.seed,
        sample=_SAMPLE,
    )
    fresh: list[TokenSequence] = [replace(s, response_ids=r) for s, r in zip(trained, responses, strict=True)]
    sets = {MONITOR: trained, FRESH: fresh}
    return {name: FixedKL(sequences, teacher, width) for name, sequences in sets.items()}
