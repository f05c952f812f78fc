"""Roles from model directories, from some of their layers, and new ones that share the oracle's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data.apt import install_apt_cache
from thack.config import ArchitectureSettings
from thack.config.experiment import ExperimentSettings, RoleSettings
from thack.errors import ThackError, UsageError
from thack.experiments.costs import CostEstimator
from thack.experiments.grid import run_grid
from thack.experiments.plan import plan
from thack.experiments.roles import content_of, file_content, resized, size_of
from thack.experiments.stages import Stage, with_upstream
from thack.models.load import load_model, new_decoder
from training.preflight.chats import save_tokenizer

from .small import settings, write_sums

PACKAGES = "".join(f"Package: p{i}\nDescription: does number {i}\n\n" for i in range(60))
CUT = ["teacher.model=m", "teacher.layers=[0, 1, 3]", "oracle.model=m", "oracle.train=false"]
CHAT = ["task=debian", "lengths.debian.max_prompt_tokens=140", "student.architecture.max_positions=192", *CUT]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Under `m` a chat model of four layers."""
    directory = tmp_path_factory.mktemp("models")
    tokenizer = save_tokenizer(directory / "tokenizer")
    shape = ArchitectureSettings(hidden_size=16, num_layers=4, num_heads=2, max_positions=192)
    new_decoder(shape, tokenizer, 0).save(directory / "m")
    return directory


def chosen(models: Path, tmp_path: Path, sets: Sequence[str]) -> ExperimentSettings:
    return settings(write_sums(tmp_path / "data"), f"models={models}", "figures=['F4']", *sets)


def stages(models: Path, tmp_path: Path, *sets: str) -> dict[str, Stage]:
    (cell,) = plan(chosen(models, tmp_path, sets), tmp_path / "out")
    return {stage.name: stage for stage in with_upstream([cell.run])}


def test_a_chat_model_teaches_some_of_its_layers_and_a_new_student(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts without answers, an oracle as it is, a teacher of three layers, a new student with its tokenizer."""
    install_apt_cache(tmp_path, monkeypatch, PACKAGES)
    monkeypatch.setenv("THACK_NUM_THREADS", "1")
    result = run_grid(chosen(models, tmp_path, CHAT), tmp_path / "out")
    (outcome,) = result.outcomes
    assert outcome.error is None and outcome.state == "finished"
    found = {stage.name: stage.path / "model" for stage in with_upstream([outcome.planned.run])}
    oracle, teacher, student = (load_model(found[name]) for name in ("oracle", "teacher", "student"))
    assert oracle.fingerprint() == load_model(models / "m").fingerprint()
    assert [len(model.blocks) for model in (oracle, teacher, student)] == [4, 3, 1]  # type: ignore[attr-defined]
    assert oracle.tokenizer.fingerprint() == student.tokenizer.fingerprint()
    assert oracle.vocab_size == student.vocab_size


def test_layers_are_a_stage_of_their_own(models: Path, tmp_path: Path) -> None:
    found = stages(models, tmp_path, *CUT)
    assert found["layers"] in found["teacher"].needs
    others = stages(models, tmp_path, *CUT, "teacher.layers=[0, 1, 2]")
    changed = {name for name in found if found[name].path.name != others[name].path.name}
    assert changed >= {"layers", "teacher", "eval_set"} and not changed & {"corpus", "oracle", "student"}


def test_a_directory_is_named_by_its_weights_and_a_file_by_every_byte(tmp_path: Path) -> None:
    """Also where neither the beginning nor the end of a large file changes, nor its size."""
    weights, data = np.zeros(1 << 22, np.uint8), b"1 + 1 = 2\n" * (1 << 19)
    (tmp_path / "m").mkdir()
    weights.tofile(tmp_path / "m" / "model.safetensors")
    (tmp_path / "sums.jsonl").write_bytes(data)
    before = content_of(tmp_path / "m"), file_content(tmp_path / "sums.jsonl")
    weights[3 << 19 : 5 << 19] = 1  # one tensor in the middle
    weights.tofile(tmp_path / "m" / "model.safetensors")
    middle = len(data) // 2
    (tmp_path / "sums.jsonl").write_bytes(data[:middle] + b"2" + data[middle + 1 :])
    after = content_of(tmp_path / "m"), file_content(tmp_path / "sums.jsonl")
    assert before[0] != after[0] and before[1] != after[1]


def test_a_student_of_the_teachers_start_has_another_seed(models: Path, tmp_path: Path) -> None:
    student = ["student.model=m", "student.layers=[0, 1, 3]"]
    assert stages(models, tmp_path, *CUT, *student)["student"].settings["seed"] == 1_000_000
    student[1] = "student.layers=[0, 3]"
    assert stages(models, tmp_path, *CUT, *student)["student"].settings["seed"] == 0


def test_sizes_name_layers(models: Path, tmp_path: Path) -> None:
    role = RoleSettings(model="m", layers=(0, 2))
    assert size_of(role) == "m:0,2" and resized(role, "m:0,2") == role
    assert resized(role, "m") == RoleSettings(model="m")
    axis = ["student.model=m", "figures=['axes']", "axes.student=['m:0,3', 'm']"]
    cells = plan(chosen(models, tmp_path, [*CUT, *axis]), tmp_path / "out")
    assert [cell.cell.arm.student for cell in cells] == ["m:0,3", "m"]
    with pytest.raises(UsageError, match="layers are numbers"):
        resized(role, "m:a")


def test_costs_count_the_layers_that_stay(models: Path, tmp_path: Path) -> None:
    costs = CostEstimator(chosen(models, tmp_path, CUT), 24, 8)
    for layers in ((0, 1, 3), ()):
        model = load_model(models / "m")
        weights = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("blocks"))  # type: ignore[attr-defined]
        block = sum(p.numel() for p in model.blocks[0].parameters())  # type: ignore[attr-defined]
        expected = weights + block * (len(layers) or 4)
        assert costs.parameters(RoleSettings(model="m", layers=layers)) == pytest.approx(
            expected, rel=0.08
        )  # the file's header, too
    new = RoleSettings(architecture=ArchitectureSettings(hidden_size=8, num_layers=1))
    assert costs.parameters(new) == 12 * 8**2 + 8 * load_model(models / "m").vocab_size


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["teacher.model=m"], "teacher from a directory, the oracle a new model"),
        (["student.layers=[0]"], "student.layers needs student.model"),
        ([*CUT, "teacher.layers=[0, 4]"], "it has 4, numbered from 0 to 3"),
        ([*CUT, "task=debian", "oracle.train=true"], "has no answers"),
        (["task=debian"], "has no answers"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    models: Path, tmp_path: Path, sets: list[str], told: str
) -> None:
    with pytest.raises(ThackError) as raised:
        plan(chosen(models, tmp_path, sets), tmp_path / "out")
    assert told in str(raised.value)
