"""The recipe `real` with SmolLM2 itself, at the smallest sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.apt import install_apt_cache
from thack.experiments.grid import run_grid
from thack.experiments.recipe import load_recipe
from thack.experiments.stages import with_upstream
from thack.models.load import load_model

pytestmark = pytest.mark.timeout(600)

PACKAGES = "".join(f"Package: game{i}\nDescription: game of {i} players\n\n" for i in range(20))
SMALL = [
    "seeds=[0]",
    "figures=['F4']",
    "max_response_tokens=4",
    "num_sft_prompts=4",
    "num_distill_prompts=4",
    "num_held_out_prompts=2",
    "teacher.layers=[0, 1, 28, 29]",
    "student.layers=[0, 29]",
    *(f"{role}.epochs=1" for role in ("teacher", "student")),
    "distill.epochs=2",
    "distill.batch_size=4",
    "distill.evaluation.count=2",
]


def test_smollm2_teaches_some_of_its_layers(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_apt_cache(tmp_path, monkeypatch, PACKAGES)
    monkeypatch.setenv("THACK_NUM_THREADS", "1")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2").symlink_to(smollm2)
    result = run_grid(load_recipe("real", [*SMALL, f"models={tmp_path / 'models'}"]), tmp_path / "out")
    (outcome,) = result.outcomes
    assert outcome.error is None and outcome.state == "finished"
    student = next(stage for stage in with_upstream([outcome.planned.run]) if stage.name == "student")
    assert len(load_model(student.path / "model").blocks) == 2  # type: ignore[attr-defined]
