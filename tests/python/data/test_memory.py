"""What a command keeps in memory of its data does not grow with the data: measured at two sizes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from thack.config import ArchitectureSettings, DataSettings, DoctorSettings, EvaluateSettings, SftSettings, ShowSettings
from thack.data import selection
from thack.data.show import show
from thack.data.tokenizer import Tokenizer
from thack.evaluation import run_evaluate
from thack.models.load import new_decoder
from thack.runtime.progress import SILENT
from thack.training.preflight import examine
from thack.training.sft import _new_model

FEW, MANY = 1200, 2400  # of more than two parts that are encoded together
BYTES = 100  # a record; each has 80 in its file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model") / "model"
    tokenizer = Tokenizer.train(["read the file 0123456789 and say line"] * 3, 264)
    new_decoder(ArchitectureSettings(hidden_size=8, num_layers=1, num_heads=1), tokenizer, seed=0).save(place)
    return place


def shown(data: Path, model: Path) -> object:
    return show(ShowSettings(model=str(model), data=DataSettings(path=str(data)), count=2), model)


def checked(data: Path, model: Path) -> object:
    settings = DataSettings(path=str(data), limit=16)
    return examine(DoctorSettings(teacher=str(model), student=str(model), data=settings, sample=4, device="cpu"))


def evaluated(data: Path, model: Path) -> object:
    limits = DataSettings(limit=4, max_response_tokens=4)
    return run_evaluate(
        EvaluateSettings(
            student=str(model), teacher=str(model), eval_data=str(data), data=limits, out=data.with_suffix(".out.json"),
            device="cpu",
        )
    )  # fmt: skip


def with_a_new_tokenizer(data: Path, model: Path) -> object:
    small = ArchitectureSettings(hidden_size=8, num_layers=1, num_heads=1)
    settings = SftSettings(data=DataSettings(path=str(data)), architecture=small, tokenizer_size=264)
    return _new_model(settings, None, SILENT)


@pytest.mark.parametrize("command", [shown, checked, evaluated, with_a_new_tokenizer])
def test_memory_does_not_grow_with_the_data(
    command: Callable[[Path, Path], object], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(selection, "_IN_MEMORY", 256)  # beyond these, hashes are in files
    command(corpus(tmp_path / "warm.jsonl", 600), model)  # what is loaded once
    # twice: a table of the interpreter's own, as of its interned strings, may grow by megabytes in one of them
    few, many = (
        min(peak(command, corpus(tmp_path / f"{count}-{n}.jsonl", count), model) for n in range(2))
        for count in (FEW, MANY)
    )
    assert many - few < BYTES * (MANY - FEW), f"{few:,} bytes, then {many:,}"


def peak(command: Callable[[Path, Path], object], data: Path, model: Path) -> int:
    tracemalloc.start()
    try:
        command(data, model)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def corpus(path: Path, count: int) -> Path:
    rows = (f'{{"prompt": "read file {n:09d} and say", "response": "line {n % 997:03d}"}}\n' for n in range(count))
    path.write_text("".join(rows))
    return path
