"""Responses are committed batch by batch: a stop loses none of them, and the end is the same to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from thack.config import GenerateSettings
from thack.errors import MismatchError, Preempted
from thack.generation import run, sampler
from thack.generation.kept import KeptResponses
from thack.generation.run import PARTIAL, run_generate
from thack.runtime.preemption import StopRequest
from training.small import model
from training.world import DATA, records, write


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> GenerateSettings:
    root = tmp_path_factory.mktemp("kept")
    model(0).save(root / "model")
    data = replace(DATA, path=str(write(root / "prompts.jsonl", records(10))))
    return GenerateSettings(
        out=root / "whole", model=str(root / "model"), data=data, batch_size=3, samples=2, device="cpu"
    )


def content(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("responses.jsonl", "manifest.json")}


def stopped_after(batches: int, settings: GenerateSettings, patch: pytest.MonkeyPatch) -> int:
    """How many batches the model ran; a signal comes after the given number of them."""
    ran, real = 0, sampler._generate_batch

    def counted(*given: object) -> list[np.ndarray]:
        nonlocal ran
        if ran == batches:
            raise StopRequest("SIGTERM")
        ran += 1
        return real(*given)  # type: ignore[arg-type]

    with patch.context() as context:
        context.setattr(sampler, "_generate_batch", counted)
        run_generate(settings)
    return ran


def test_a_stopped_generation_is_resumed_to_the_same_bytes(
    settings: GenerateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stopped_after(99, settings, monkeypatch) == 8  # 4 batches of 2 samples
    for batches in (1, 5):
        out = replace(settings, out=tmp_path / str(batches))
        with pytest.raises(Preempted) as caught:
            stopped_after(batches, out, monkeypatch)
        kept = {1: 3, 5: 13}[batches]
        assert caught.value.details == (f"kept: {kept} of 20 responses in {out.out}",)
        assert stopped_after(99, out, monkeypatch) == 8 - batches
        assert content(out.out) == content(settings.out)
        assert not (out.out / PARTIAL).exists()


def test_a_torn_or_damaged_line_is_sampled_again(
    settings: GenerateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_generate(settings)
    for number, damage in enumerate(
        (b'{"stream": 0, "ro', b"\0\0\0\n", b'{"stream": 0, "rows": [1], "responses": []}\n')
    ):
        out = replace(settings, out=tmp_path / str(number))
        with pytest.raises(Preempted):
            stopped_after(3, out, monkeypatch)
        with open(out.out / PARTIAL, "ab") as file:
            file.write(damage)
        assert stopped_after(99, out, monkeypatch) == 5
        assert content(out.out) == content(settings.out)


def test_parts_of_other_responses_are_refused_by_name(
    settings: GenerateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = replace(settings, out=tmp_path / "out")
    with pytest.raises(Preempted):
        stopped_after(2, out, monkeypatch)
    with pytest.raises(MismatchError, match="a part of other responses") as caught:
        run_generate(replace(out, seed=1, batch_size=4))
    assert caught.value.details == ("seed  0 there, 1 now", "batch_size  3 there, 4 now")
    assert caught.value.hint == f"give another `out`, or remove {out.out / PARTIAL}"


def test_a_file_without_its_first_line_is_begun_again(tmp_path: Path) -> None:
    for content in (b"", b"[" * 9999, b"\xff\xfe", b"{}\n"):
        (tmp_path / "x").write_bytes(content)
        kept = KeptResponses(tmp_path / "x", {"seed": 0})
        assert kept.num_responses == 0
        kept.add(2, [0, 1], [np.array([5, 6], np.int32), np.array([7], np.int32)])
        kept.close()
        again = KeptResponses(tmp_path / "x", {"seed": 0})
        found = again.find(2, [0, 1])
        assert found is not None and [ids.tolist() for ids in found] == [[5, 6], [7]]
        assert again.find(1, [0, 1]) is None and again.find(2, [0]) is None
        again.remove()
        assert not (tmp_path / "x").exists()


def test_windows_of_prompts_write_the_same_and_resume(
    settings: GenerateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More prompts than one window: fewer are in memory, and the file is the same."""
    run_generate(settings)
    monkeypatch.setattr(run, "_WINDOW", 4)
    read: list[int] = []
    respond = sampler.respond

    def counted(model: object, prompts: list[object], *given: object, **named: object) -> object:
        read.append(len(prompts))
        return respond(model, prompts, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "respond", counted)
    out = replace(settings, out=tmp_path / "windows")
    with pytest.raises(Preempted):
        stopped_after(3, out, monkeypatch)
    assert stopped_after(99, out, monkeypatch) == 2 * 5 - 3  # batches of 3, 1, 3, 1 and 2 prompts
    assert content(out.out) == content(settings.out)
    assert max(read) == 4
