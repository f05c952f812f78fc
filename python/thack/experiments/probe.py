"""How fast this machine trains the student: for a dry run before any stage has been timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import numpy as np
import torch

from thack.config.experiment import ExperimentSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.losses import cross_entropy
from thack.models.batch import Batch
from thack.models.load import new_model


def probe(settings: ExperimentSettings, steps: int = 4) -> float:
    """Floating-point operations per second of the student's training step, on one thread; the fastest of `steps`."""
    batch = _some_batch(settings)
    with _one_thread():
        model = new_model(settings.student.architecture, Tokenizer.train(["a probe"], 258), 0)
        seconds = []
        for _ in range(steps):
            started = monotonic()
            torch.autograd.backward(cross_entropy(model(batch), batch.labels_N).mean())
            seconds.append(monotonic() - started)
    weights = sum(parameter.numel() for parameter in model.parameters())
    tokens = sum(len(p) + len(r) for p, r in zip(batch.prompts, batch.responses, strict=True))
    return float(6 * weights * tokens / min(seconds))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _some_batch(settings: ExperimentSettings) -> Batch:
    """Sequences of half the greatest lengths, which are capped for the sake of the paper's recipe."""
    prompt = np.full(min(settings.max_prompt_tokens, 256) // 2 + 1, 5, dtype=np.int32)
    response = np.full(min(settings.max_response_tokens, 128) // 2 + 1, 6, dtype=np.int32)
    rows = range(min(settings.distill.batch_size, 32))
    return Batch.of(
        [TokenSequence(example=i, prompt_id=str(i), prompt_ids=prompt, response_ids=response) for i in rows]
    )
