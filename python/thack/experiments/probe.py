"""How fast this machine trains a student of this width: for a dry run before any stage has been timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import thread_time

import numpy as np
import torch

from thack.config.experiment import ExperimentSettings
from thack.config.shared import ArchitectureSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.experiments.roles import model_directory
from thack.losses import cross_entropy
from thack.models.batch import Batch
from thack.models.directory import read_config
from thack.models.load import new_model
from thack.models.precision import inference_precision

_HEAD_SIZE, _MOST_HEADS = 64, 16
_VOCABULARY = 258  # a head of this size costs next to nothing


def probe(settings: ExperimentSettings, steps: int = 4) -> float:
    """Floating-point operations per second of the student's training step, on one thread; the fastest of `steps`.

    In time of that thread, so that other work on the machine does not count.
    """
    batch = _some_batch(settings)
    with _one_thread():
        model = new_model(_architecture(settings), Tokenizer.train(["a probe"], _VOCABULARY), 0)
        precision = inference_precision(model, settings.dtype)
        seconds = []
        for _ in range(steps):
            started = thread_time()
            with precision.autocast(model):
                loss = cross_entropy(model(batch), batch.labels_N).mean()
            torch.autograd.backward(loss)
            seconds.append(thread_time() - started)
    weights = sum(parameter.numel() for parameter in model.parameters())
    tokens = sum(len(p) + len(r) for p, r in zip(batch.prompts, batch.responses, strict=True))
    return float(6 * weights * tokens / min(seconds))


def _architecture(settings: ExperimentSettings) -> ArchitectureSettings:
    """The student's; of one that starts from a directory, two layers of its width, 1,024 at most: products decide."""
    student = settings.student
    if not student.model:
        return student.architecture
    width = int(read_config(model_directory(settings, student))["hidden_size"])
    heads = max(1, min(width // _HEAD_SIZE, _MOST_HEADS))
    return replace(student.architecture, num_layers=2, num_heads=heads, hidden_size=heads * _HEAD_SIZE)


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
