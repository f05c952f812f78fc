"""Captures as processes: killed, crowded, spread over ranks, on disks that are full or read-only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from thack.cache.format.plan import read_plan
from thack.cache.format.reader import Cache
from thack.config import ArchitectureSettings
from thack.data.tokenizer import Tokenizer
from thack.models.load import new_decoder

LONG = os.environ.get("THACK_LONG") == "1"
ALONE = [name for name in os.environ if name in ("RANK", "WORLD_SIZE") or name.startswith("SLURM_")]


def run(*arguments: object, inside: list[str] | None = None) -> dict[str, Any]:
    """One mode of jobs.py; prints what it found as a table."""
    environment = {k: v for k, v in os.environ.items() if k not in ALONE} | {"OMP_NUM_THREADS": "1"}
    command = [*(inside or []), sys.executable, str(Path(__file__).with_name("jobs.py")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    print("\n".join(f"{value!s:>6}  {name}" for name, value in report.items()))
    report["stderr"] = done.stderr
    return report


def test_killed_jobs_resume_to_the_same_bytes(tmp_path: Path) -> None:
    kills = 500 if LONG else 25
    report = run("kill", tmp_path, kills, 5)
    assert report["kills"] >= kills
    assert report["identical"] == report["jobs"]
    assert report["orphans"] == 0 and report["written twice"] == 0
    assert report.get("killed with a shard open", 0) > 0


def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    report = run("ranks", tmp_path)
    report.pop("stderr")
    assert len(report) == 6 and all(report.values())


def test_eight_writers_of_the_same_shards_agree(tmp_path: Path) -> None:
    report = run("crowd", tmp_path)
    assert report["failed"] == 0 and report["identical"] == report["rounds"]


def namespace(directory: Path, options: str) -> list[str]:
    """A command prefix under which `directory` is a small file system of its own; skips where that is not allowed."""
    enter = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o {options} none "{directory}" && exec "$@"', "sh"]
    directory.mkdir()
    try:
        allowed = subprocess.run([*enter, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this machine allows no mount in a namespace")
    return enter


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path) -> None:
    report = run("full", tmp_path, inside=namespace(tmp_path / "small", "size=256k"))
    assert report["failed"] and report["identical"]
    assert report["kept"] == report["left"] > 0
    assert "no space left after" in report["stderr"] and "run the same command again" in report["stderr"]


@pytest.mark.parametrize(
    ("options", "before", "said"),
    [
        ("size=64k", "head -c 61440 /dev/zero > {out}/filler; mkdir {out}/c;", "no space left"),
        ("size=64k,ro", "", "read-only file system"),
        ("size=16k,nr_inodes=1", "", "no space left"),
    ],
    ids=["full", "read-only", "without inodes"],
)
def test_directories_that_cannot_be_written_fail_first(tmp_path: Path, options: str, before: str, said: str) -> None:
    """Missing files are told before; this teacher has all of its own, and whoever loaded it would say so."""
    out, teacher, data = tmp_path / "small", tmp_path / "broken", tmp_path / "pairs.jsonl"
    enter = namespace(out, options)
    teacher.mkdir()
    (teacher / "config.json").write_text("{}")
    (teacher / "model.safetensors").write_text("")
    data.write_text('{"prompt": "a", "response": "b"}\n')
    thack = [sys.executable, "-m", "thack", "cache-logits", "--teacher", str(teacher), "--data", str(data)]
    script = f'{before.format(out=out)} exec "$@"'
    done = subprocess.run(
        [*enter, "sh", "-c", script, "sh", *thack, "--out", str(out / "c")], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert said in done.stderr and "broken" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def start_rank(rank: int, world: Path, out: Path) -> subprocess.Popen[str]:
    """`cache-logits` as one of two ranks, whose shards hold a few sequences."""
    command = [sys.executable, "-m", "thack", "cache-logits", "--teacher", str(world / "model"), "--top-k", "4"]
    command += ["--data", str(world / "pairs.jsonl"), "--set", "shard_tokens=200", "--device", "cpu", "--out", str(out)]
    environment = {k: v for k, v in os.environ.items() if k not in ALONE}
    environment |= {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_rank_that_is_killed_stops_no_other_and_the_cache_says_what_is_missing(tmp_path: Path) -> None:
    """It dies with the lock that the other one waits for."""
    tokenizer = Tokenizer.train(["read the file"], 264)
    new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2, num_layers=1), tokenizer, 0).save(tmp_path / "model")
    lines = [json.dumps({"prompt": f"read {i}", "response": f"the file {i}"}) + "\n" for i in range(2_000)]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    out, ends = tmp_path / "cache", time.monotonic() + 300
    first = start_rank(0, tmp_path, out)
    while not list(out.glob(".data-*.lock")):
        assert first.poll() is None and time.monotonic() < ends
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    second = start_rank(1, tmp_path, out)
    assert second.stderr is not None and f"in use by process {first.pid}" in second.stderr.readline()
    first.kill()
    first.communicate()
    _, said = second.communicate(timeout=300)
    missing = [n for n in range(read_plan(out).num_shards) if n % 2 == 0]
    assert second.returncode == 0, said
    assert f"cache: {len(missing)} of {read_plan(out).num_shards} shards are not there yet" in said
    assert json.loads((out / "STATUS.json").read_text())["state"] == "running"
    again = start_rank(0, tmp_path, out)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert json.loads((out / "STATUS.json").read_text())["state"] == "finished"
    assert len(Cache.open(out)) == 2_000
    assert not list(out.glob(".data-*"))


def test_files_have_the_mode_of_the_umask(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import jobs\n"
        "os.umask(0o027); out = Path(sys.argv[2]); jobs.finish(out)\n"
        "print({oct(p.stat().st_mode & 0o777) for p in out.rglob('*') if p.is_file()})"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'0o640'}"
