"""A student with an adapter against the same student whose weights all train: a step's time, and memory.

Both run through transformers, on one batch, in one process by turns. Memory is what weights, gradients and optimizer
hold after a step, counted by tensors, so that it is the same on every machine; the frozen base model counts too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from harness import Measurement, interleaved
from thack.config import ArchitectureSettings, LoadSettings, LoraSettings, OptimizerSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.models.batch import Batch
from thack.models.load import load_model, load_student, new_decoder
from thack.models.protocol import LanguageModel
from thack.training.objective import supervised
from thack.training.optimizer import Optimizer
from thack.training.sharding import as_module

_SHAPE = ArchitectureSettings(hidden_size=512, num_layers=8, num_heads=8, max_positions=256)
_RANK = 16


class _Training:
    """Steps of one student on one batch."""

    def __init__(self, model: LanguageModel, batch: Batch) -> None:
        self.model, self._batch = model, batch
        model.train()
        self._objective = supervised(model)
        self._optimizer = Optimizer(as_module(model), OptimizerSettings())

    def step(self) -> None:
        output = self.model(self._batch, project=not self._objective.takes_hidden(len(self._batch.labels_N)))
        self._objective(output, None, self._batch.labels_N).sum().backward()
        self._optimizer.clip()
        self._optimizer.step(1e-4)

    def bytes_held(self) -> int:
        """Weights, gradients and Adam's moments."""
        own = list(as_module(self.model).parameters())
        state = [v for slots in self._optimizer.adamw.state.values() for v in slots.values() if torch.is_tensor(v)]
        trained = sum(p.nbytes for p in own if p.requires_grad)  # a gradient of the same size each
        return sum(p.nbytes for p in own) + trained + sum(v.nbytes for v in state)


def measure() -> Iterator[Measurement]:
    """Time and memory of a step, an adapter's beside the whole student's."""
    tokenizer = Tokenizer.train(["def read(path): read the file at path"] * 3, 264)
    rng = np.random.default_rng(0)
    ids = [rng.integers(2, tokenizer.size, 128, dtype=np.int32) for _ in range(8)]
    batch = Batch.of(
        [TokenSequence(example=i, prompt_id=str(i), prompt_ids=s[:64], response_ids=s[64:]) for i, s in enumerate(ids)]
    )
    with tempfile.TemporaryDirectory() as place:
        new_decoder(_SHAPE, tokenizer, 0).save(Path(place))
        whole = _Training(load_model(place, options=LoadSettings(backend="transformers")), batch)
        adapter = _Training(load_student(place, LoraSettings(rank=_RANK), seed=0, checkpoint=None, device="cpu"), batch)
        times = interleaved([adapter.step, whole.step], repeats=5)
    yield Measurement(
        what=f"step of a student with an adapter of rank {_RANK}",
        ours=times[0],
        unit="s",
        peer="the same student, all weights trained",
        theirs=times[1],
    )
    yield Measurement(
        what=f"weights, gradients and optimizer state, rank {_RANK}",
        ours=adapter.bytes_held() / 2**20,
        unit="MiB",
        peer="the same student, all weights trained",
        theirs=whole.bytes_held() / 2**20,
    )
