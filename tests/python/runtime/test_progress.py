"""Work reports its progress to the object that it is given; by default that is silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from thack.config import ArchitectureSettings, SamplingSettings
from thack.data.tokenizer import Tokenizer
from thack.generation import GenerationRequest, generate
from thack.models.load import new_decoder
from thack.runtime.progress import SILENT, Progress, Task


class Recorder:
    """Remembers tasks and what they were advanced by."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[Task]:
        self.events.append(("open", name, total, unit))
        yield self
        self.events.append(("close", name))

    def advance(self, amount: float = 1, **fields: object) -> None:
        self.events.append(("advance", amount))

    def left(self, seconds: float) -> None:
        pass

    def note(self, message: str) -> None:
        self.events.append(("note", message))


def test_silence_accepts_everything() -> None:
    with SILENT.task("generate", None) as task:
        task.advance()
        task.advance(3.5, loss=1.25)
    with SILENT.task("step", 10, "steps") as task, SILENT.task("inner", 1):
        task.advance(10)
    SILENT.note("nothing is printed")


def test_work_opens_a_task_advances_to_its_total_and_closes_it() -> None:
    tokenizer = Tokenizer.train(["def read(path): read the file"] * 3, 264)
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, 0)
    prompts = [np.array([5 + i], np.int32) for i in range(5)]
    request = GenerationRequest(sampling=SamplingSettings(), max_new_tokens=2, seed=0, batch_size=2)
    recorder = Recorder()
    progress: Progress = recorder
    generate(model, prompts, request, examples=range(5), progress=progress)
    assert recorder.events[0] == ("open", "generate", 5, "responses")
    assert recorder.events[-1] == ("close", "generate")
    assert sum(event[1] for event in recorder.events if event[0] == "advance") == 5  # type: ignore[misc]
