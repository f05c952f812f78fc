"""metrics.jsonl mirrored: TensorBoard and Weights & Biases for real where they are installed, trackio by a stand-in."""

from __future__ import annotations

import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from thack.config import DistillSettings, SftSettings, load_settings
from thack.errors import UsageError
from thack.runtime import trackers
from thack.runtime.runlog import read
from thack.runtime.trackers import Mirror, identity
from thack.training.run_directory import RunDirectory
from thack.training.sft import run_sft

ROW = {"event": "evaluation", "step": 3, "golden/x": 1.5, "nothing": None, "flag": True, "count": 2}


class Recorder:
    """A tracker that remembers; fails at step 9."""

    def __init__(self, *_: Any) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log(self, values: Any, step: int) -> None:
        if step == 9:
            raise ConnectionError("no network")
        self.seen.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


def test_numbers_alone_are_mirrored_and_a_failing_tracker_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    monkeypatch.setitem(trackers._KINDS, "wandb", lambda *_: recorder)
    mirror = Mirror(["wandb"], tmp_path, {})
    mirror.append(ROW)
    mirror.append({"event": "note"})
    with caplog.at_level(logging.WARNING):
        mirror.append({"step": 9, "loss": 1.0})
    mirror.append({"step": 10, "loss": 1.0})
    mirror.close()
    assert recorder.seen == [(3, {"golden/x": 1.5, "count": 2.0})]
    assert "tracker wandb is dropped (ConnectionError: no network)" in caplog.text


def test_the_setting_is_a_list_of_known_names() -> None:
    assert load_settings(DistillSettings, sets=['tracker=["tensorboard", "wandb"]']).tracker == ("tensorboard", "wandb")
    with pytest.raises(UsageError, match=r"tensorboard \| wandb \| trackio"):
        load_settings(SftSettings, sets=['tracker=["mlflow"]'])


def test_what_is_not_installed_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"tracker wandb is not installed[\s\S]*thack\[wandb\]"):
        Mirror(["wandb"], tmp_path, {})


def test_tensorboard_holds_every_number_of_a_run(tmp_path: Path) -> None:
    """A real run of `sft`, and its event file read back."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "pairs.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"def f{i}(x)", "response": f"reads {i}"}) for i in range(8))
    )
    keys = {
        "out": str(tmp_path / "run"),
        "data": {"path": str(tmp_path / "pairs.jsonl")},
        "tokenizer_size": 270,
        "architecture": {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "max_positions": 64},
        "epochs": 2,
        "batch_size": 4,
        "tracker": ["tensorboard"],
        "device": "cpu",
    }
    run_sft(load_settings(SftSettings, overrides=keys))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in read(tmp_path / "run" / "metrics.jsonl"):
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                expected.setdefault(name, []).append((row["step"], value))
    assert "loss" in expected
    assert set(events.Tags()["scalars"]) == expected.keys()
    for name, points in expected.items():
        scalars = events.Scalars(name)
        assert [e.step for e in scalars] == [step for step, _ in points], name
        assert [e.value for e in scalars] == pytest.approx([value for _, value in points], rel=1e-6), name


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    mirror = Mirror(["wandb"], tmp_path / "a", {"epochs": 1})
    (tmp_path / "a").mkdir(exist_ok=True)
    mirror.append(ROW)
    mirror.close()
    files = list((tmp_path / "a").rglob("*.wandb")) or list(tmp_path.rglob("*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 0
    assert identity(tmp_path / "a") in files[0].name


def test_trackio_gets_run_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in with the four calls that are used: the package pins other versions of what is installed here."""
    calls: list[tuple[str, Any]] = []
    fake = types.ModuleType("trackio")
    fake.init = lambda **options: calls.append(("init", options))  # type: ignore[attr-defined]
    fake.log = lambda values, step: calls.append(("log", (step, values)))  # type: ignore[attr-defined]
    fake.finish = lambda: calls.append(("finish", None))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", fake)
    mirror = Mirror(["trackio"], tmp_path / "a", {"epochs": 1})
    mirror.append(ROW)
    mirror.close()
    assert [name for name, _ in calls] == ["init", "log", "finish"]
    assert calls[0][1]["project"] == "thack" and calls[0][1]["config"] == {"epochs": 1}
    assert calls[1][1] == (3, {"golden/x": 1.5, "count": 2.0})


def test_a_run_may_go_on_with_another_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers._KINDS, "trackio", Recorder)
    RunDirectory(SftSettings(out=tmp_path / "run"), "sft").claim()
    (tmp_path / "run" / "checkpoints" / "step_000001").mkdir(parents=True)
    RunDirectory(SftSettings(out=tmp_path / "run", tracker=("trackio",)), "sft").claim()
