"""The doctor's findings: what is wrong is said with what to do, on faked machines and file systems."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from thack.runtime import doctor
from thack.schema.preflight import Finding
from thack.schema.run import Environment

FACTS = Environment(
    thack="1.2.3",
    git="abc123+",
    python="3.12.1",
    platform="Linux x86_64",
    packages={"torch": "2.8.0", "transformers": "5.0"},
    cpu="Fast CPU",
    simd="avx512",
    bf16="emulated",
    threads=2,
    thread_limits={"affinity mask": 8, "cgroup quota": 2},
)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return lambda value: monkeypatch.setattr(doctor, "bf16_speedup", lambda: value)


def test_everything_is_examined(tmp_path: Path) -> None:
    found = by_name(doctor.examine(tmp_path / "not" / "yet"))
    assert {"thack", "python", "torch", "hub", "cpu", "simd", "threads", "bfloat16", "out", "fsync"} <= found.keys()
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_software_that_is_missing_is_a_note_with_its_extra() -> None:
    found = by_name(doctor._software(FACTS))
    assert found["thack"].value == "1.2.3 (abc123+)" and found["python"].value == "3.12.1 on Linux x86_64"
    assert by_name(doctor._software(replace(FACTS, git=None)))["thack"].value == "1.2.3"
    assert found["transformers"] == Finding(name="transformers", value="5.0")
    assert found["pyarrow"].state == "note" and found["pyarrow"].advice == "Parquet files: pip install 'thack[data]'"


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_the_hub(monkeypatch: pytest.MonkeyPatch, value: str, offline: bool) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    monkeypatch.setenv("HF_HOME", "/scratch/hub")
    found = doctor._hub()
    assert ("offline" in found.value) is offline and found.value.endswith("in /scratch/hub")


def test_more_threads_than_granted_are_wrong(speed: Callable[[float], None]) -> None:
    speed(0.5)
    found = by_name(doctor._processor(FACTS))["threads"]
    assert found.state == "ok" and "affinity mask 8, cgroup quota 2" in found.value
    found = by_name(doctor._processor(replace(FACTS, threads=4)))["threads"]
    assert found.state == "wrong" and "THACK_NUM_THREADS" in found.advice


@pytest.mark.parametrize(
    ("bf16", "speedup", "chosen"),
    [
        ("emulated", 5.0, "float32 is chosen"),
        ("avx512_bf16", 1.2, "float32 is chosen"),
        ("amx_bf16", 4.0, "chosen for wide models"),
    ],
)
def test_what_bfloat16_gains_here(speed: Callable[[float], None], bf16: str, speedup: float, chosen: str) -> None:
    speed(speedup)
    found = by_name(doctor._processor(replace(FACTS, bf16=bf16)))["bfloat16"]
    assert found.value.endswith(chosen) and f"({bf16})" in found.value


def test_gpus_with_their_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._accelerators(FACTS) == [Finding(name="gpus", value="none")]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((70 - index) << 30, 80 << 30))
    found = doctor._accelerators(replace(FACTS, gpus=("A", "B")))
    assert [f.value for f in found] == ["A, 70 of 80 GiB free", "B, 69 of 80 GiB free"]


def test_what_a_cache_needs_works_here(tmp_path: Path) -> None:
    found = by_name(doctor.file_system(tmp_path / "out"))
    for name in ("O_EXCL", "hard link", "rename", "fsync"):
        assert found[name].state in ("ok", "note") and found[name].value.startswith("works"), name
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_hard_links_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    found = by_name(doctor.file_system(tmp_path))
    assert found["hard link"].state == "wrong" and found["hard link"].value == "fails: Operation not permitted"
    assert found["rename"].state == "ok" and not list(tmp_path.iterdir())


def test_a_file_system_that_creates_twice_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def careless(path: Path, flags: int, mode: int = 0o777) -> int:
        return real(path, flags & ~os.O_EXCL, mode)

    monkeypatch.setattr(os, "open", careless)
    found = by_name(doctor.file_system(tmp_path))
    assert found["O_EXCL"].state == "wrong" and "second exclusive creation" in found["O_EXCL"].value


def test_a_slow_fsync_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    found = doctor._try("fsync", doctor._fsync, tmp_path)
    assert (found.state, found.value) == ("note", "works, 500.0 ms") and "shard_tokens" in found.advice


def test_a_place_without_permission_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = doctor.file_system(tmp_path / "out")
    assert [f.name for f in found] == ["out", "write"]
    assert found[1].state == "wrong" and str(tmp_path) in found[1].value


def test_little_space_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((4e9, "note"), (6e9, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        found = by_name(doctor.file_system(tmp_path))["free space"]
        assert found.state == state and bool(found.advice) is (state == "note")


def test_the_type_of_the_mount_that_holds_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\ntmpfs {tmp_path}/deeper tmpfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self: mounts)
    assert doctor.file_system_type(tmp_path / "file") == "nfs4"
    assert doctor.file_system_type(tmp_path / "deeper" / "file") == "tmpfs"
    assert doctor.file_system_type(Path("/")) == "ext4"

    def missing(self: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert doctor.file_system_type(tmp_path) == "an unknown file system"
