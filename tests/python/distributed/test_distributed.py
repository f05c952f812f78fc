"""One, two and four processes train alike: one launch of `launch.py`, whose runs are compared here.

What ranks do with parameters that not all of them used is in the same launch, since a start takes longest.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from thack.errors import UsageError
from thack.runtime.runlog import read
from thack.training import sharding

from . import idle

HERE = Path(__file__).parent
RUNS = [
    "offline-ddp",
    "offline-fsdp",
    "teacher-ddp",
    "student-fsdp",
    "mixture-fsdp",
    "sft-fsdp",
    "lora-ddp",
    "lora-fsdp",
    "tokenizers-ddp",
    "tokenizers-fsdp",
    "several-ddp",
]
FOUR = ["offline-ddp", "offline-fsdp", "mixture-fsdp", "stopped-fsdp"]
PAIRS = [(2, name) for name in RUNS] + [(4, name) for name in FOUR]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("launched")
    done = subprocess.run(
        [sys.executable, str(HERE / "launch.py"), str(out)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def rows(path: Path, event: str) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.startswith("seconds")}
        for row in read(path / "metrics.jsonl")
        if row["event"] == event
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("world_size", "name"), PAIRS)
def test_pitfall_9_the_losses_are_those_of_one_process(launched: Path, world_size: int, name: str) -> None:
    ours, alone = (rows(launched / str(n) / name, "train") for n in (world_size, 1))
    assert len(ours) == len(alone) >= 3
    for row, expected in zip(ours, alone, strict=True):
        for key in ("loss", "grad_norm"):
            assert row.pop(key) == pytest.approx(expected.pop(key), rel=1e-5), (row["step"], key)
        assert row == expected  # tokens, epochs, what was generated and scored: the same sequences in the same steps


@pytest.mark.parametrize(
    ("world_size", "name"),
    [(2, "offline-ddp"), (2, "offline-fsdp"), (4, "offline-fsdp"), (2, "tokenizers-ddp"), (2, "tokenizers-fsdp")],
)
def test_evaluations_shared_by_ranks_are_those_of_one_process(launched: Path, world_size: int, name: str) -> None:
    ours, alone = (rows(launched / str(n) / name, "evaluation") for n in (world_size, 1))
    # Before the first step: to the bit. Health is summed over rows of several ranks.
    exact, expected = ({k: v for k, v in row.items() if not k.startswith("health/")} for row in (ours[0], alone[0]))
    assert exact == expected
    assert ours[-1].keys() == alone[-1].keys()
    for key, value in alone[-1].items():
        if not isinstance(value, str):
            assert ours[-1][key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize(("world_size", "name"), PAIRS)
def test_every_number_of_ranks_writes_the_files_of_one_process(launched: Path, world_size: int, name: str) -> None:
    ours, alone = (launched / str(n) / name for n in (world_size, 1))

    def names(run: Path) -> set[Path]:
        return {path.relative_to(run) for path in run.rglob("*") if path.is_file()}

    assert names(ours) == names(alone)
    weights = "adapter_model.safetensors" if name.startswith("lora") else "model.safetensors"
    files = [Path("model") / weights, *(p for p in names(alone) if p.name == "optimizer.safetensors")]
    for file in files:
        theirs = {key: value.shape for key, value in load_file(alone / file).items()}
        assert {key: value.shape for key, value in load_file(ours / file).items()} == theirs
    assert json.loads((ours / "STATUS.json").read_text())["state"] == "finished"
    assert json.loads((ours / "manifest.json").read_text())["facts"]["ranks"] == world_size


@pytest.mark.parametrize(("world_size", "name"), [(2, "stopped-fsdp"), (4, "stopped-fsdp"), (2, "lora-stopped")])
def test_pitfall_28_a_signal_to_one_rank_stops_all_and_they_resume_to_the_bit(
    launched: Path, world_size: int, name: str
) -> None:
    cut = launched / str(world_size) / name
    whole = cut.with_name({"stopped-fsdp": "offline-fsdp", "lora-stopped": "lora-fsdp"}[name])
    for event in ("train", "evaluation"):
        assert rows(cut, event) == rows(whole, event)
    weights = "adapter_model.safetensors" if name.startswith("lora") else "model.safetensors"
    ours, theirs = (load_file(run / "model" / weights) for run in (cut, whole))
    assert all(bool((ours[key] == theirs[key]).all()) for key in theirs)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_full_disk_leaves_no_half_checkpoint_and_says_so(launched: Path, world_size: int) -> None:
    run = launched / str(world_size) / "refused"
    status = json.loads((run / "STATUS.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert "no space left" in status["reason"]
    assert not any((run / "checkpoints").glob("*"))


@pytest.mark.parametrize(("world_size", "name"), [(1, "across-to-1"), (2, "across-to-2"), (4, "across-to-4")])
def test_another_number_of_ranks_resumes_with_bounded_drift(launched: Path, world_size: int, name: str) -> None:
    """Two FSDP ranks stopped at step 2; one process, two replicas and four shards resume their checkpoint."""
    ours = rows(launched / "across" / name, "train")
    alone = rows(launched / "1" / "offline-fsdp", "train")
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in alone], rel=1e-5)
    assert json.loads((launched / "across" / name / "manifest.json").read_text())["facts"]["ranks"] == world_size


def test_a_second_job_into_the_same_directory_is_refused_on_every_rank_with_the_holders_name(launched: Path) -> None:
    """Four ranks come while two are at step 2."""
    shared = launched / "shared"
    for rank in range(4):
        told = (shared / f"told-{rank}").read_text()
        assert f"`out` {shared / 'run'} is in use" in told
    assert f"by process {(shared / 'held').read_text()} on " in (shared / "told-0").read_text()
    assert rows(shared / "run", "train") == rows(launched / "2" / "offline-ddp", "train")
    assert json.loads((shared / "run" / "STATUS.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("case", "expected"),
    [("different", [3.0, 1.0, 2.0, None]), ("one has none", [1.0, 1.0, None, None])],
)
def test_gradients_are_summed_also_where_ranks_used_different_parameters(
    launched: Path, case: str, expected: list[float | None]
) -> None:
    for rank in range(2):
        found = torch.load(launched / "idle" / f"{case} {rank}.pt")
        assert [None if g is None else g.unique().tolist() for g in found] == [
            None if value is None else [value] for value in expected
        ]


@pytest.mark.skipif(not idle.ADDS_UP_IDLE, reason="this torch refuses experts: see below")
def test_sharded_experts_may_be_idle_on_a_rank(launched: Path) -> None:
    """The gradients are those of one process, where torch alone aborts."""
    for rank in range(2):
        for found, alone in torch.load(launched / "idle" / f"experts {rank}.pt"):
            torch.testing.assert_close(found, alone)


def test_a_torch_that_cannot_add_up_idle_experts_is_refused() -> None:
    old = torch.nn.Module()  # without the method of FSDPModule
    sharding._add_up_idle(old)
    old.experts = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(UsageError, match=r"needs torch 2\.15 for experts"):
        sharding._add_up_idle(old)
