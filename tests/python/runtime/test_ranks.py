"""Who this process is among many: torchrun's variables, Slurm's, or none."""

from __future__ import annotations

import pytest

from thack.errors import UsageError
from thack.runtime.ranks import Rank, current_rank, first_host, master_address, rendezvous

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}


def test_ranks_of_torchrun_slurm_and_alone() -> None:
    assert current_rank({}) == Rank(0, 1, 0) == Rank()
    assert current_rank(TORCHRUN) == Rank(3, 4, 1)
    assert current_rank(SLURM) == Rank(5, 8, 1)
    assert not current_rank(SLURM).is_first and current_rank({}).is_first


def test_torchrun_wins_under_srun() -> None:
    """`srun torchrun` sets both, and Slurm's count launchers."""
    assert current_rank(SLURM | TORCHRUN) == Rank(3, 4, 1)


def test_a_batch_script_without_srun_is_one_process() -> None:
    """It has SLURM_NTASKS, but runs once, outside of any step."""
    script = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}
    assert current_rank(script) == Rank(0, 1, 0)


def test_a_launcher_without_local_ranks_has_one_process_per_node() -> None:
    assert current_rank({"RANK": "2", "WORLD_SIZE": "4"}) == Rank(2, 4, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "a"}, r"not whole numbers[\s\S]*RANK=a"),
        ({"WORLD_SIZE": "-4"}, r"not whole numbers[\s\S]*WORLD_SIZE=-4"),
        ({"LOCAL_RANK": "1.0"}, r"not whole numbers[\s\S]*LOCAL_RANK=1.0"),
        ({"RANK": "4"}, r"rank 4 of 4: ranks count from 0[\s\S]*RANK, WORLD_SIZE, LOCAL_RANK"),
        ({"WORLD_SIZE": "0"}, "rank 3 of 0"),
    ],
)
def test_variables_that_make_no_sense_are_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        current_rank(TORCHRUN | changes)


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("a,b", "a"),
        ("n3", "n3"),
        ("", ""),
        ("a1,b[2-3]", "a1"),
        ("n[4,6]", "n4"),
        ("rack1-gpu[01-64]", "rack1-gpu01"),
    ],
)
def test_the_first_host_of_a_compressed_list(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_where_ranks_connect() -> None:
    assert master_address({}) == ("127.0.0.1", 29500)
    assert master_address({"MASTER_ADDR": "h", "MASTER_PORT": "1"}) == ("h", 1)
    assert master_address({"SLURM_STEP_NODELIST": "n[4,6]", "SLURM_JOB_ID": "123456"}) == ("n4", 29956)
    array_task = {"SLURM_STEP_NODELIST": "n1", "SLURM_JOB_ID": "12_3"}
    assert master_address(array_task) == ("n1", 29500)
    assert master_address(array_task | {"MASTER_ADDR": "h"}) == ("h", 29500)


def test_two_jobs_on_one_node_use_different_ports() -> None:
    ports = {master_address({"SLURM_JOB_ID": str(job)})[1] for job in range(8_400, 8_420)}
    assert len(ports) == 20 and all(29_500 <= port < 30_500 for port in ports)


def test_torchrun_has_opened_the_port_itself() -> None:
    """A second listener on it would fail; elsewhere rank 0 opens the port."""
    assert rendezvous({"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "h"}) == "env://"
    assert rendezvous({"MASTER_ADDR": "h", "MASTER_PORT": "7"}) == "tcp://h:7"


def test_ranks_wait_for_each_other_and_so_not_without_end_for_another_start() -> None:
    assert Rank().patience_s is None and Rank(1, 2).patience_s == 10
