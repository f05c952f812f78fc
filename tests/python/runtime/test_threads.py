"""How many threads are used: the tightest of what kernel, container and scheduler grant, under faked files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thack.errors import UsageError
from thack.runtime import threads


@pytest.fixture
def sixty_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_affinity", lambda: 64)


@pytest.mark.usefixtures("sixty_four")
def test_pitfall_30_threads_follow_affinity_quota_and_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.usefixtures("sixty_four")
def test_a_quota_of_the_version_1_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert threads.limits({}, tmp_path)["cgroup quota"] == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    assert "cgroup quota" not in threads.limits({}, tmp_path)


@pytest.mark.usefixtures("sixty_four")
def test_the_tightest_quota_on_the_way_up_binds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod's limit may be on the parent of the container's own group."""
    parent, own = tmp_path / "pod", tmp_path / "pod" / "container"
    own.mkdir(parents=True)
    monkeypatch.setattr(threads, "_own_cgroups", lambda root: [own, parent, root])
    (own / "cpu.max").write_text("800000 100000\n")
    (parent / "cpu.max").write_text("400000 100000\n")
    assert threads.limits({}, tmp_path)["cgroup quota"] == 4
    (own / "cpu.max").write_text("10000 100000\n")  # a tenth of a core is one thread
    assert threads.limits({}, tmp_path)["cgroup quota"] == 1


@pytest.mark.usefixtures("sixty_four")
@pytest.mark.parametrize("content", ["", "max", "many 100000", "100000", "100000 fast", "1 2 3"])
def test_a_quota_that_cannot_be_read_does_not_bind(tmp_path: Path, content: str) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert threads.limits({}, tmp_path) == {"affinity mask": 64}


@pytest.mark.usefixtures("sixty_four")
@pytest.mark.parametrize("value", ["", " ", "0", "-1", "all", "2.5"])
def test_variables_that_are_no_count_do_not_bind(tmp_path: Path, value: str) -> None:
    assert threads.limits({"OMP_NUM_THREADS": value, "SLURM_CPUS_PER_TASK": value}, tmp_path) == {"affinity mask": 64}


def test_the_groups_of_this_process_go_up_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: "1:cpu:/other\n0::/slurm/job_7/step_0\n")
    found = threads._own_cgroups(tmp_path)
    assert [str(folder.relative_to(tmp_path)) for folder in found] == [
        "slurm/job_7/step_0",
        "slurm/job_7",
        "slurm",
        ".",
    ]


def test_without_cgroups_only_the_root_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert threads._own_cgroups(tmp_path) == [tmp_path]


def test_the_affinity_mask_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
        assert threads._affinity() == 3
        monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # as on a system that cannot tell
    assert threads._affinity() == 1


def test_the_override_wins_and_is_checked() -> None:
    assert threads.threads({"THACK_NUM_THREADS": "7", "OMP_NUM_THREADS": "2"}) == 7
    assert threads.threads({"OMP_NUM_THREADS": "1"}) == 1
    assert 1 <= threads.threads({}) <= (os.cpu_count() or 1)
    for value in ("many", "0", "-2", "1.5"):
        with pytest.raises(UsageError, match="THACK_NUM_THREADS"):
            threads.threads({"THACK_NUM_THREADS": value})


def test_torch_and_the_rust_pool_get_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("THACK_NUM_THREADS", "2")
    try:
        assert threads.apply_threads() == 2 == torch.get_num_threads()
        assert os.environ["THACK_NUM_THREADS"] == "2"
    finally:
        torch.set_num_threads(before)


@given(quota=st.integers(1, 10**8), period=st.integers(1000, 10**6))
def test_a_quota_rounds_up_to_whole_threads(quota: int, period: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("cgroup")
    (root / "cpu.max").write_text(f"{quota} {period}\n")
    found = threads._cgroup_quota(root)
    assert found is not None and found >= 1
    assert (found - 1) * period < quota <= found * period or found == 1


def test_idle_threads_sleep_before_torch_is_loaded() -> None:
    code = "from thack.cli import main; import sys; sys.argv = ['thack', 'doctor', '--show-settings']; main()"
    seen = "import atexit, os; atexit.register(lambda: print(os.environ.get('OMP_WAIT_POLICY')));"
    for chosen, policy in (
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "9"}, "None"),
    ):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
        done = subprocess.run([sys.executable, "-c", seen + code], env=clean | chosen, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == policy


def test_openmp_reads_the_policy_that_was_set() -> None:
    code = "import os; from thack.runtime.threads import let_idle_threads_sleep as f; f(); import torch"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    shown = {"OMP_DISPLAY_ENV": "true"}
    done = subprocess.run([sys.executable, "-c", code], env=clean | shown, capture_output=True, text=True, check=True)
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this build of torch brings no OpenMP that shows its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
