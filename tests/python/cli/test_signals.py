"""Real processes: a signal at any moment ends a command with its documented code, and output never ends it at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

THACK = [sys.executable, "-m", "thack"]


def start(*words: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([*THACK, *words], stdout=-1, stderr=-1, text=True, **options)  # type: ignore[call-overload, no-any-return]


def wait_for_handler(child: subprocess.Popen[str], number: int) -> None:
    """Until the kernel says that the process handles the signal: its first line has run, and little else."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = Path(f"/proc/{child.pid}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        if caught >> (number - 1) & 1 and (number != signal.SIGINT or caught >> (signal.SIGTERM - 1) & 1):
            return
        time.sleep(0.002)
    raise AssertionError("no handler")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 75, "SIGTERM"), (signal.SIGUSR2, 75, "SIGUSR2"), (signal.SIGINT, 130, "Ctrl-C")],
)
def test_a_signal_in_the_first_moment_of_a_command(tmp_path: Path, number: int, code: int, said: str) -> None:
    """Before anything that takes time is imported."""
    child = start("distill", "--student", "nothing", "--cache", "nothing", "--out", str(tmp_path / "run"))
    wait_for_handler(child, number)
    child.send_signal(number)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert f"stopped by {said}" in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


EMIT = """
import sys
from pathlib import Path
from thack.runtime.streams import protect_streams
protect_streams()
from thack.cli.session import emit
print("a note", file=sys.stderr, flush=True)
emit({"a": 1}, lambda: print("r\\udce9sult" * 99999), out=Path("x") if sys.argv[1] == "kept" else None)
print("another", file=sys.stderr, flush=True)
with open(sys.argv[2], "w") as file:
    print(file.fileno() > 2, file=file)
"""


@pytest.mark.parametrize("redirection", [">&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | true", "</dev/null >/dev/null"])
def test_output_that_cannot_be_written_does_not_change_the_end(tmp_path: Path, redirection: str) -> None:
    """Closed, full, or a pipe that is not read: the work is done, its code is 0, and no file gets a closed stream's
    number."""
    shell = f'set -o pipefail; {sys.executable} -c "$SCRIPT" kept {tmp_path / "end"} {redirection}'
    done = subprocess.run(["bash", "-c", shell], check=False, timeout=60, env={**os.environ, "SCRIPT": EMIT})
    assert done.returncode == 0
    assert (tmp_path / "end").read_text() == "True\n"


def test_a_result_that_is_nowhere_else_must_be_printed(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-c", EMIT, "only here", str(tmp_path / "end")]
        done = subprocess.run(words, stdout=full, stderr=-1, text=True, check=False)
    assert done.returncode == 1 and not (tmp_path / "end").exists()
    assert "the result cannot be written to stdout: no space left on device" in done.stderr
