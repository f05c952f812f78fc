"""Each sbatch template runs as bash, with Slurm's variables and commands faked."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from thack.config import SlurmSettings
from thack.errors import UsageError
from thack.slurm import render, templates

SRUN = """#!/bin/bash
echo "$@" >> "$FAKE/srun.log"
env | grep -E "^(RANK|WORLD_SIZE)=" | sort >> "$FAKE/srun.log"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
PYTHON = """#!/bin/bash
shift 2  # -m thack
printf '%s\\n' "$@" > "$FAKE/arguments"
out=$(grep -A1 -x -e --out "$FAKE/arguments" | tail -n1)
mkdir -p "$out"
printf '{\\n  "state": "stopped",\\n  "exit_code": %s\\n}\\n' "${FAKE_STATUS:-0}" > "$out/STATUS.json"
exit "${FAKE_CODE:-0}"
"""
SCONTROL = '#!/bin/bash\necho "$@" >> "$FAKE/scontrol.log"\n'


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    for name, text in (("srun", SRUN), ("python", PYTHON), ("scontrol", SCONTROL)):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def submit(fake: Path, job: SlurmSettings, **environ: str) -> int:
    slurm = {
        "SLURM_JOB_ID": "70",
        "SLURM_ARRAY_JOB_ID": "69",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_ARRAY_TASK_COUNT": "4",
    }
    done = subprocess.run(
        ["bash", "-u", "-c", render(job)],
        env={**os.environ, "PATH": f"{fake}:{os.environ['PATH']}", "FAKE": str(fake), **slurm, **environ},
        cwd=fake,
        timeout=30,
        check=False,
    )
    return done.returncode


def job(command: str, *arguments: str, array: int = 0) -> SlurmSettings:
    return SlurmSettings(command=command, arguments=arguments, array=array, python="python")


JOBS = {
    "single": (job("distill", "--cache", "my cache", "--out", "runs/a b"), "runs/a b", "70"),
    "multi-node": (
        SlurmSettings(
            command="distill", arguments=("--cache", "c", "--out", "runs/m"), nodes=2, tasks=4, python="python"
        ),
        "runs/m",
        "70",
    ),
    "array": (job("distill", "--seed", "{task}", "--out", "runs/x-{task}", array=4), "runs/x-2", "69_2"),
    "cache-array": (job("cache-logits", "--teacher", "t", "--out", "cache", array=4), "cache", "69_2"),
}


def test_every_template_is_tested() -> None:
    assert sorted(JOBS) == templates()


@pytest.mark.parametrize("name", JOBS)
def test_a_finished_job_is_not_requeued(name: str, fake: Path) -> None:
    script, out, _ = JOBS[name]
    assert submit(fake, script) == 0
    assert (fake / out / "STATUS.json").exists()
    assert not (fake / "scontrol.log").exists()


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("code", ["75", "1"], ids=["direct", "code lost by a launcher"])
def test_a_stopped_job_is_requeued(name: str, code: str, fake: Path) -> None:
    script, _, identity = JOBS[name]
    if (name, code) == ("cache-array", "1"):
        # The status is the first task's, and each task's own code comes back: a failed one must not be run for ever.
        assert submit(fake, script, FAKE_CODE=code, FAKE_STATUS="75") == 1
        assert not (fake / "scontrol.log").exists()
        return
    assert submit(fake, script, FAKE_CODE=code, FAKE_STATUS="75") == 0
    assert (fake / "scontrol.log").read_text() == f"requeue {identity}\n"


@pytest.mark.parametrize("name", JOBS)
def test_a_failed_job_stays_failed(name: str, fake: Path) -> None:
    assert submit(fake, JOBS[name][0], FAKE_CODE="1", FAKE_STATUS="1") == 1
    assert not (fake / "scontrol.log").exists()


def test_the_cache_array_shares_shards_by_rank(fake: Path) -> None:
    submit(fake, JOBS["cache-array"][0])
    assert (fake / "srun.log").read_text().splitlines()[1:] == ["RANK=2", "WORLD_SIZE=4"]


def test_ranks_of_one_run_share_the_gpus_of_their_node(fake: Path) -> None:
    script = render(JOBS["multi-node"][0])
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n" in script
    assert "--gpus-per-node=4" in script and "gpus-per-task" not in script
    assert submit(fake, JOBS["multi-node"][0]) == 0
    first = (fake / "srun.log").read_text().splitlines()[0]
    assert first.startswith("--wait=60 python -m thack distill")
    assert "--ntasks-per-node=2" in render(SlurmSettings(command="sft", arguments=("--out", "a"), tasks=2))


def test_options_and_quoting() -> None:
    script = render(SlurmSettings(command="sft", arguments=("--out", "a'b $x"), partition="gpu", account="me", gpus=0))
    assert "#SBATCH --partition=gpu\n#SBATCH --account=me\n" in script
    assert "gpus" not in script
    assert """--out 'a'"'"'b $x'""" in script
    assert "@" not in script.replace("USR2@120", "")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (job("doctor"), "no job for thack doctor"),
        (job("sft", "--data", "x"), "needs --out"),
        (SlurmSettings(command="generate", arguments=("--out", "x"), nodes=2), "runs as one process"),
        (SlurmSettings(command="sft", arguments=("--out", "x-{task}"), tasks=2, array=4), "a run of its own"),
        (job("sft", "--out", "x", array=4), "the same command 4 times"),
    ],
)
def test_refusals(wrong: SlurmSettings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(wrong)


def test_out_with_an_equals_sign(fake: Path) -> None:
    assert "a/STATUS.json" in render(job("sft", "--out=a"))
