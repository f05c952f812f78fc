"""Threads, ranks, devices, stop flags: read right under faked containers and schedulers."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from thack.errors import Interrupted, Preempted, UsageError
from thack.runtime import device, threads
from thack.runtime.preemption import StopFlag
from thack.runtime.ranks import Rank, current_rank, first_host, master_address


def test_trap_30_threads_follow_affinity_quota_and_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_affinity", lambda: 64)
    monkeypatch.setattr(threads, "_own_cgroups", lambda root: [root / "a", root])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert threads.limits({}, tmp_path) == {"affinity mask": 64, "cgroup quota": 3}
    slurm = {"SLURM_CPUS_PER_TASK": "2", "OMP_NUM_THREADS": "4,2"}
    assert threads.limits(slurm, tmp_path) == {
        "affinity mask": 64,
        "cgroup quota": 3,
        "SLURM_CPUS_PER_TASK": 2,
        "OMP_NUM_THREADS": 4,
    }


def test_cgroup_v1_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert threads.limits({}, tmp_path)["cgroup quota"] == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    assert "cgroup quota" not in threads.limits({}, tmp_path)


def test_thread_override() -> None:
    assert threads.threads({"THACK_NUM_THREADS": "7"}) == 7
    assert threads.threads({}) >= 1
    with pytest.raises(UsageError, match="THACK_NUM_THREADS"):
        threads.threads({"THACK_NUM_THREADS": "many"})


def test_ranks_of_torchrun_slurm_and_alone() -> None:
    assert current_rank({}) == Rank(0, 1, 0)
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}
    assert current_rank(torchrun) == Rank(3, 4, 1)
    assert current_rank(slurm) == Rank(5, 8, 1)
    assert current_rank(slurm | torchrun) == Rank(3, 4, 1)
    batch_script = {name: value for name, value in slurm.items() if name != "SLURM_STEP_ID"}
    assert current_rank(batch_script) == Rank(0, 1, 0)
    assert not current_rank(slurm).is_first


def test_bad_rank_variables() -> None:
    with pytest.raises(UsageError, match="not whole numbers"):
        current_rank({"RANK": "a", "WORLD_SIZE": "4"})
    with pytest.raises(UsageError, match="rank 4 of 4"):
        current_rank({"RANK": "4", "WORLD_SIZE": "4"})


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("a,b", "a"),
        ("n3", "n3"),
        ("", ""),
        ("a1,b[2-3]", "a1"),
        ("n[4,6]", "n4"),
    ],
)
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_master_address() -> None:
    assert master_address({}) == ("127.0.0.1", 29500)
    assert master_address({"MASTER_ADDR": "h", "MASTER_PORT": "1"}) == ("h", 1)
    assert master_address({"SLURM_STEP_NODELIST": "n[4,6]", "SLURM_JOB_ID": "123456"}) == ("n4", 29956)


def test_device_choices_and_refusals() -> None:
    assert device.choose_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="'gpu7' is unknown"):
        device.choose_device("gpu7")


def test_trap_29_bf16_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    cpu = torch.device("cpu")
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset({"avx2"}))
    assert device.choose_dtype("auto", cpu) == (torch.float32, "bfloat16 is emulated on this CPU")
    assert "emulates" in device.choose_dtype("bfloat16", cpu)[1]
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert device.choose_dtype("auto", cpu, width=96)[0] is torch.float32
    assert device.choose_dtype("bfloat16", cpu) == (torch.bfloat16, "asked for (avx512_bf16)")
    for speedup, dtype in ((1.1, torch.float32), (4.0, torch.bfloat16)):
        monkeypatch.setattr(device, "bf16_speedup", lambda speedup=speedup: speedup)
        assert device.choose_dtype("auto", cpu, width=1024)[0] is dtype
    assert device.choose_dtype("float32", cpu) == (torch.float32, "asked for")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_signals_set_the_flag_and_handlers_come_back(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopFlag(tmp_path) as stop:
        assert stop.requested is None
        os.kill(os.getpid(), number)
        assert stop.requested == name
        error = stop.error("step 12 in runs/a")
    assert signal.getsignal(number) == before
    assert isinstance(error, Preempted)
    assert error.exit_code == 75
    assert error.details == ("kept: step 12 in runs/a",)


def test_first_interrupt_asks_second_insists() -> None:
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == "SIGINT"
        assert isinstance(stop.error("x"), Interrupted)
        assert stop.error("x").exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_stop_and_save_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thack.runtime.preemption._FILE_CHECK_S", 0.0)
    with StopFlag(tmp_path) as stop:
        assert not stop.save_requested()
        (tmp_path / "SAVE").touch()
        assert stop.save_requested()
        assert not stop.save_requested()
        assert stop.requested is None
        (tmp_path / "STOP").touch()
        assert stop.requested == "STOP file"
        assert "STOP file" in str(stop.error("x"))
    assert not (tmp_path / "STOP").exists(), "or the next start would stop at once"


def test_outside_the_main_thread_only_files_and_other_ranks_count() -> None:
    seen: list[str | None] = []

    def work() -> None:
        with StopFlag() as stop:
            assert stop.adopt(3)
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["SIGTERM"]
