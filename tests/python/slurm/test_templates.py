"""Each sbatch template runs as bash, with Slurm's variables and commands faked."""

from __future__ import annotations

import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
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
if [ -n "$FAKE_STATUS" ]; then
    printf '{\\n  "exit_code": %s,\\n  "start": "%s"\\n}\\n' "$FAKE_STATUS" "$THACK_START" > "$out/STATUS.json"
fi
exit "${FAKE_CODE:-0}"
"""
SCONTROL = '#!/bin/bash\necho "$@" >> "$FAKE/scontrol.log"\nexit "${FAKE_SCONTROL:-0}"\n'


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    for name, text in (("srun", SRUN), ("python", PYTHON), ("scontrol", SCONTROL)):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def submit(fake: Path, job: SlurmSettings, **environ: str) -> subprocess.CompletedProcess[str]:
    slurm = {
        "SLURM_JOB_ID": "70",
        "SLURM_ARRAY_JOB_ID": "69",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_ARRAY_TASK_COUNT": "1",  # of the array as submitted, which may be some of the script's tasks
    }
    return subprocess.run(
        ["bash", "-u", "-c", render(job)],
        env={"PATH": f"{fake}:/usr/bin:/bin", "FAKE": str(fake), "FAKE_STATUS": "", **slurm, **environ},
        cwd=fake,
        timeout=30,
        check=False,
        capture_output=True,
        text=True,
    )


def requeues(fake: Path) -> list[str]:
    log = fake / "scontrol.log"
    return log.read_text().splitlines() if log.exists() else []


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
    assert submit(fake, script, FAKE_STATUS="0").returncode == 0
    assert (fake / out / "STATUS.json").exists()
    assert not requeues(fake)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("code", ["75", "1"], ids=["direct", "code lost by a launcher"])
def test_a_stopped_job_is_requeued(name: str, code: str, fake: Path) -> None:
    script, _, identity = JOBS[name]
    assert submit(fake, script, FAKE_CODE=code, FAKE_STATUS="75").returncode == 0
    assert requeues(fake) == [f"requeue {identity}"]


@pytest.mark.parametrize("name", JOBS)
def test_a_failed_job_stays_failed(name: str, fake: Path) -> None:
    assert submit(fake, JOBS[name][0], FAKE_CODE="1", FAKE_STATUS="1").returncode == 1
    assert not requeues(fake)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("restarts", ["0", "1"])
def test_the_status_of_an_earlier_start_requeues_nothing(name: str, restarts: str, fake: Path) -> None:
    """The command fails before it writes a status: the one in the directory says how the last start ended."""
    script, out, _ = JOBS[name]
    for start in ("", "70-0-1700000000"):  # one written by hand, one by the job's first start
        status = fake / out / "STATUS.json"
        status.parent.mkdir(parents=True, exist_ok=True)
        status.write_text(f'{{\n  "state": "stopped",\n  "exit_code": 75,\n  "start": "{start}"\n}}\n')
        assert submit(fake, script, FAKE_CODE="2", SLURM_RESTART_COUNT=restarts).returncode == 2
    assert not requeues(fake)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("how", ["missing", "refused"])
def test_a_stopped_job_that_cannot_be_requeued_is_not_done(name: str, how: str, fake: Path) -> None:
    if how == "missing":
        (fake / "scontrol").unlink()
    done = submit(fake, JOBS[name][0], FAKE_CODE="75", FAKE_STATUS="75", FAKE_SCONTROL="1")
    assert done.returncode == 75
    assert f"scontrol requeue {JOBS[name][2]} failed" in done.stderr
    assert "to continue: sbatch" in done.stderr
    assert "requeued after" not in done.stdout


@pytest.mark.parametrize("name", JOBS)
def test_requeues_have_a_limit(name: str, fake: Path) -> None:
    script = replace(JOBS[name][0], max_requeues=3)
    for restarts in ("", "1", "2"):
        submit(fake, script, FAKE_CODE="75", FAKE_STATUS="75", SLURM_RESTART_COUNT=restarts)
    assert len(requeues(fake)) == 3
    done = submit(fake, script, FAKE_CODE="75", FAKE_STATUS="75", SLURM_RESTART_COUNT="3")
    assert done.returncode == 75
    assert len(requeues(fake)) == 3
    assert "restarted 3 times, max_requeues is 3" in done.stderr


@pytest.mark.parametrize("name", JOBS)
def test_the_start_that_a_script_names_is_the_one_in_status(name: str, fake: Path) -> None:
    """With the command's own writer of STATUS.json in the place of the stub's."""
    out = fake / JOBS[name][1]
    out.mkdir(parents=True)
    (out / "manifest.json").write_text('{"kind": "run"}')
    writer = (
        "from pathlib import Path; from thack.runtime.status import write_status; from thack.schema.run import Status; "
        f"write_status(Path({str(out)!r}), 'run', Status(state='stopped', exit_code=75))"
    )
    path = ":".join(sys.path)
    (fake / "python").write_text(
        f"#!/bin/bash\nPYTHONPATH={shlex.quote(path)} {shlex.quote(sys.executable)} -c {shlex.quote(writer)}\nexit 1\n"
    )
    script = replace(JOBS[name][0], arguments=JOBS[name][0].arguments)
    assert submit(fake, script, **({"SLURM_ARRAY_TASK_ID": "0"} if name == "cache-array" else {})).returncode == 0
    assert len(requeues(fake)) == 1


def test_the_cache_array_shares_shards_by_rank(fake: Path) -> None:
    """`sbatch --array=2` runs task 2 of the four that the script was written for."""
    submit(fake, JOBS["cache-array"][0])
    assert (fake / "srun.log").read_text().splitlines()[1:] == ["RANK=2", "WORLD_SIZE=4"]


def test_a_task_without_a_share_of_the_cache_is_refused(fake: Path) -> None:
    """`sbatch --array=1-4` asks for a task that the script does not know."""
    done = submit(fake, JOBS["cache-array"][0], SLURM_ARRAY_TASK_ID="4", SLURM_ARRAY_TASK_COUNT="4")
    assert done.returncode == 2
    assert "array task 4 has no share of this cache: its tasks are 0 to 3" in done.stderr
    assert "sbatch --array=0-3" in done.stderr
    assert not (fake / "srun.log").exists()


def test_any_task_of_other_arrays_runs(fake: Path) -> None:
    """Where {task} is only a number in the command, an array of other ids is more runs."""
    submit(fake, JOBS["array"][0], SLURM_ARRAY_TASK_ID="9")
    assert (fake / "arguments").read_text().splitlines()[-1] == "runs/x-9"


@pytest.mark.parametrize("name", JOBS)
def test_shellcheck_finds_nothing(name: str, tmp_path: Path) -> None:
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    path = tmp_path / "job.sh"
    path.write_text(render(JOBS[name][0]))
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_ranks_of_one_run_share_the_gpus_of_their_node(fake: Path) -> None:
    script = render(JOBS["multi-node"][0])
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n" in script
    assert "--gpus-per-node=4" in script and "gpus-per-task" not in script
    assert submit(fake, JOBS["multi-node"][0]).returncode == 0
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
